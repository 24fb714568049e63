"""A student as a file for an engine, with its manifest, checked against the student that training simulated."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from torch import Tensor, nn

from detectors.protocol import Detector
from quantization.convert import quantized_layers
from quantization.engines.litert.export import NO_SHAPES
from quantization.engines.metadata import own_metadata
from quantization.engines.target import OwnFormat, engine_target
from quantization.layers import QuantizedLayer
from quantization.onnx.graph import output_names, store_int4, to_half, to_onnx, write_onnx
from quantization.onnx.parity import check_in_float, measure_parity, resized
from quantization.onnx.quantizers import OPSET, replace_quantizers
from schemas.errors import ConfigError, VerificationError
from schemas.image_size import ImageSize
from schemas.labels import ShapeKind
from schemas.student import (
    ExportForm,
    OnnxManifest,
    QuantizerRecord,
    StudentManifest,
    export_provenance,
    onnx_manifest_path,
)
from schemas.target import Target
from stages.storage import file_digest, remove_file, write_text

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
    model = to_onnx(network.eval(), student.identity.stride, {}, output_names(student))
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
    seen = None if images is None else resized(images[:OBSERVED_IMAGES], form.image_size)
    made = _write(traced, path, seen, form)
    judge = engine.runs_in if isinstance(engine, OwnFormat) else "onnxruntime"
    try:
        if not isinstance(engine, OwnFormat):
            check_in_float(student, path, seen, form.image_size)
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


def check_head(detector: Detector, target: Target) -> None:
    """Check that a target's files can be made of a detector's head.

    Raises:
        ConfigError: they cannot.
    """
    if target is Target.LITERT and detector.sees is not ShapeKind.BOX:
        raise ConfigError(f"target {target.value}: {NO_SHAPES}")


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


def export_full_precision(detector: Detector, image_size: ImageSize, single: Path, half: Path) -> None:
    """Write a full-precision detector as FP32 and as FP16, both with float input and output."""
    metadata = detector.deployment_metadata(image_size)
    model = to_onnx(detector.deployed(), detector.identity.stride, metadata, output_names(detector))
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


def float_layers(network: nn.Module) -> list[str]:
    """Convolutions and linear layers without quantizers, by name."""
    inside = [name for name, module in network.named_modules() if isinstance(module, QuantizedLayer)]
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return [name for name in layers if name not in inside]


def _counts(bits: Sequence[int]) -> dict[str, int]:
    return {str(value): bits.count(value) for value in sorted(set(bits))}
