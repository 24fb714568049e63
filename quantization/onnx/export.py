"""A student as a file for an engine, with its manifest, checked against the student that training simulated."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.protocol import Detector
from quantization.convert import quantized_layers
from quantization.engines.metadata import own_metadata
from quantization.engines.target import OwnFormat, engine_target
from quantization.layers import QuantizedLayer
from quantization.onnx.engine import open_engine
from quantization.onnx.graph import store_int4, to_half, to_onnx, write_onnx
from quantization.onnx.quantizers import OPSET, replace_quantizers
from schemas.errors import ConfigError, VerificationError
from schemas.eval_config import EngineName
from schemas.student import (
    ExportForm,
    OnnxManifest,
    OnnxParity,
    QuantizerRecord,
    StudentManifest,
    export_provenance,
    onnx_manifest_path,
)
from schemas.target import Target
from stages.storage import file_digest, remove_file, write_text

PARITY_IMAGES = 8
"""Images that the outputs are compared on."""
BEST_ANCHORS = 100
"""Per image, the outputs that a model is accepted or refused by: those that the student scores highest."""
LARGEST_SCORE_ERROR = 0.5
"""Share of the student's scores there. Of rounding it is up to 0.1, of unrelated outputs about 1."""
LARGEST_BOX_ERROR = 0.02
"""Share of the image's side, weighted by score. Of rounding it is up to 0.002, of another image's boxes 0.03."""
SMALLEST_MATCH = 0.5
"""Share of an end-to-end head's best outputs that need one of their class in the model."""


OBSERVED_IMAGES = 32
"""At most this many calibration images decide the grids that an engine needs and the student does not have."""


@dataclass(frozen=True)
class TracedStudent:
    """A student's graph with Q/DQ on the inputs of its layers, which every target starts from.

    Attributes:
        student: as its manifest describes it.
        manifest: of the student.
        model: without metadata.
        weight_bits: of each quantized layer in it.
        activation_bits: of their inputs.
        float_layers: names of convolutions and linear layers without quantizers in it.
    """

    student: Detector
    manifest: StudentManifest
    model: onnx.ModelProto
    weight_bits: tuple[int, ...]
    activation_bits: tuple[int, ...]
    float_layers: tuple[str, ...]


def trace_student(student: Detector, manifest: StudentManifest) -> TracedStudent:
    """Trace a student once, for all targets."""
    network = student.deployed()
    layers = quantized_layers(network)
    bits = {name: (layer.weight_quantizer.spec.bits, layer.input_quantizer.spec.bits) for name, layer in layers.items()}
    replace_quantizers(network)
    model = to_onnx(network.eval(), student.identity.stride, {})
    stored = {tensor.name for tensor in model.graph.initializer}
    exported = [bits[name] for name in bits if f"{name}.weight_quantizer.integers" in stored]
    in_float = tuple(name for name in float_layers(network) if f"{name}.weight" in stored)
    return TracedStudent(
        student=student,
        manifest=manifest,
        model=model,
        weight_bits=tuple(weight for weight, _ in exported),
        activation_bits=tuple(activation for _, activation in exported),
        float_layers=in_float,
    )


def export_student(traced: TracedStudent, path: Path, images: Tensor | None, form: ExportForm) -> OnnxManifest:
    """Write a student as a model in the form that the target wants, then the manifest that makes it one.

    Args:
        traced: the student.
        path: the model file.
        images: calibration images, `(B, 3, H, W)`; None compares outputs on noise.
        form: what is asked of the file.

    Raises:
        ConfigError: the target cannot express the student, or needs images.
        VerificationError: the exported model does not compute what the student computes, or breaks the target's rules.
    """
    student, manifest, engine = traced.student, traced.manifest, engine_target(form.target)
    check_target(manifest, form.target, has_images=images is not None)
    remove_file(onnx_manifest_path(path))
    seen = None if images is None else _resized(images[:OBSERVED_IMAGES], form.image_size)
    made = _write(traced, path, seen, form)
    judge = engine.runs_in if isinstance(engine, OwnFormat) else "onnxruntime"
    try:
        parity = measure_parity(student, path, seen, form.image_size, judge)
        census = engine.census(path)
    except VerificationError:
        remove_file(path)
        raise
    described = OnnxManifest(
        file=path.name,
        target=form.target,
        sha256=file_digest(path),
        bytes=path.stat().st_size,
        image_size=form.image_size,
        student_sha256=manifest.weights_sha256,
        bits=manifest.bits,
        weight_tensors=_counts(traced.weight_bits),
        activation_tensors=_counts(traced.activation_bits),
        float_layers=traced.float_layers,
        int4=form.int4,
        parity=parity,
        census=census,
        **made,
        provenance=export_provenance(manifest, form),
    )
    write_text(onnx_manifest_path(path), described.to_json())
    return described


def _write(traced: TracedStudent, path: Path, images: Tensor | None, form: ExportForm) -> dict[str, Any]:
    """Write the file itself; what its manifest says of how it was made."""
    student, manifest, engine = traced.student, traced.manifest, engine_target(form.target)
    arrays = None if images is None else images.cpu().contiguous().numpy()
    if isinstance(engine, OwnFormat):
        assert arrays is not None  # these engines need images, which `check_target` asks for
        return {"fixed_size": True, "tools": engine.write(student, manifest, arrays, path, form)}
    model = engine.place(traced.model, arrays)
    if form.int4:
        store_int4(model)
    metadata = student.deployment_metadata(form.image_size) | own_metadata(manifest, form.target)
    onnx.helper.set_model_props(model, metadata)
    write_onnx(model, path)
    return {"opset": OPSET, "onnx_version": onnx.__version__, "onnxruntime_version": onnxruntime.__version__}


def check_expressible(quantizers: Sequence[QuantizerRecord], target: Target) -> None:
    """Check that a target can express quantizers, and that what makes its files is here.

    Raises:
        ConfigError: it cannot, or something is missing.
    """
    if obstacle := engine_target(target).obstacle(quantizers):
        raise ConfigError(f"target {target.value}: {obstacle}")


def check_target(student: StudentManifest, target: Target, *, has_images: bool) -> None:
    """Check that a student can be exported for a target, before anything is done for it.

    Raises:
        ConfigError: the target cannot express the student, or needs images.
    """
    check_expressible(student.quantizers, target)
    if engine_target(target).needs_images and not has_images:
        raise ConfigError(
            f"target {target.value}: takes calibration images to place quantizers by; give --calibration-set, the set "
            "that the student was made with"
        )


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def export_full_precision(detector: Detector, image_size: int, single: Path, half: Path) -> None:
    """Write a full-precision detector as FP32 and as FP16, both with float input and output."""
    model = to_onnx(detector.deployed(), detector.identity.stride, detector.deployment_metadata(image_size))
    write_onnx(model, single)
    write_onnx(to_half(model), half)


def verify_onnx(path: Path, student: StudentManifest) -> OnnxManifest:
    """The manifest of an exported model whose file is whole and came from this student.

    Raises:
        InputError: the manifest is missing.
        VerificationError: the file does not match its digest, or was exported from another student.
    """
    manifest = OnnxManifest.read(onnx_manifest_path(path))
    if manifest.student_sha256 != student.weights_sha256:
        raise VerificationError(f"{path}: was exported from another student; run zsq export --overwrite")
    if not path.is_file() or file_digest(path) != manifest.sha256:
        raise VerificationError(f"{path}: content does not match its digest; copy it again or run zsq export again")
    return manifest


@torch.no_grad()
def measure_parity(
    student: Detector, path: Path, images: Tensor | None, image_size: int, engine: EngineName = "onnxruntime"
) -> OnnxParity:
    """Errors of an exported model's decoded outputs against the simulated student's.

    Raises:
        VerificationError: the model does not compute what the student computes.
    """
    source: Literal["calibration set", "noise"] = "noise" if images is None else "calibration set"
    if images is None:
        images = torch.rand(PARITY_IMAGES, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    images = _resized(images[:PARITY_IMAGES], image_size)
    device = next(student.network.parameters()).device
    theirs = student.decoded(images.to(device)).cpu()
    mine = torch.from_numpy(open_engine(path, engine)(images.cpu().contiguous().numpy()))
    if reason := _difference(mine, theirs, student.end_to_end, image_size):
        raise VerificationError(
            f"{path}: the exported model is not the student: {reason}; not kept. Please report this with the "
            "architecture"
        )
    matched = torch.ones(())
    if student.end_to_end:
        mine, theirs, matched = _same_rows(mine, theirs)
        scores, boxes = (mine - theirs)[:, 4].abs(), (mine - theirs)[:, :4].abs()
    else:
        errors = (mine - theirs).abs()
        boxes, scores = errors[:, :4], errors[:, 4:]
    return OnnxParity(
        images=len(images),
        image_source=source,
        score_max=float(scores.max()),
        score_mean=float(scores.mean()),
        box_max=float(boxes.max()),
        box_mean=float(boxes.mean()),
        matched=float(matched),
    )


def _difference(mine: Tensor, theirs: Tensor, end_to_end: bool, image_size: int) -> str | None:
    """Why a model's outputs cannot be the student's, judged by the student's best; None where they can.

    Background is left out: its scores are near 0 in any model, and its boxes are chance.
    """
    if mine.shape != theirs.shape:
        return f"its outputs are {tuple(mine.shape)} instead of {tuple(theirs.shape)}"
    if not mine.isfinite().all():
        return "it computes values that are not finite"
    if end_to_end:
        mine, theirs, matched = _same_rows(mine, theirs[:, :BEST_ANCHORS])  # sorted by score
        if not matched >= SMALLEST_MATCH:
            return f"only {matched:.0%} of the student's outputs have one of their class in it"
        mine, theirs = mine[:, :5], theirs[:, :5]
    else:
        scores = theirs[:, 4:].amax(dim=1)
        best = scores.topk(min(BEST_ANCHORS, scores.shape[1])).indices[:, None].expand(-1, theirs.shape[1], -1)
        mine, theirs = (outputs.gather(2, best).transpose(1, 2).flatten(0, 1) for outputs in (mine, theirs))
    errors, weights = (mine - theirs).abs(), theirs[:, 4:].sum(dim=1)
    # Written so that an error which is not a number fails.
    if not errors[:, 4:].sum() <= LARGEST_SCORE_ERROR * weights.sum():
        return f"its class scores are {errors[:, 4:].sum() / weights.sum():.0%} off on average"
    if not (errors[:, :4].mean(dim=1) * weights).sum() <= LARGEST_BOX_ERROR * image_size * weights.sum():
        return f"its boxes are {(errors[:, :4].mean(dim=1) * weights).sum() / weights.sum():.1f} px off on average"
    return None


def float_layers(network: nn.Module) -> list[str]:
    """Convolutions and linear layers without quantizers, by name."""
    inside = [name for name, module in network.named_modules() if isinstance(module, QuantizedLayer)]
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return [name for name in layers if name not in inside]


def _same_rows(mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """End-to-end rows `(B, N, 6)` as pairs `(M, 6)`, and the share paired.

    Rows are sorted by score, so that equal objects may stand in other rows: each goes with the nearest of its class.
    """
    distances = torch.cdist(theirs[..., :4], mine[..., :4])
    distance, nearest = distances.where(theirs[..., None, 5] == mine[:, None, :, 5], torch.inf).min(dim=2)
    paired = distance.isfinite()
    return mine.gather(1, nearest[..., None].expand_as(theirs))[paired], theirs[paired], paired.float().mean()


def _counts(bits: Sequence[int]) -> dict[str, int]:
    return {str(value): bits.count(value) for value in sorted(set(bits))}
