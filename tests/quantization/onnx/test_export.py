"""An exported student computes what the simulated one computes, says what it is, and damage is found."""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper
from torch import Tensor
from torchvision.ops import box_iou
from ultralytics import YOLO

from detectors.protocol import Detector, Suppression
from quantization.convert import quantized_layers
from quantization.onnx.engine import open_engine
from quantization.onnx.export import (
    TracedStudent,
    export_full_precision,
    export_student,
    verify_onnx,
)
from schemas.errors import ConfigError, InputError, VerificationError
from schemas.image_size import ImageSize
from schemas.qat_config import BitPolicy, Policy
from schemas.student import (
    ExportForm,
    OnnxManifest,
    StudentManifest,
    onnx_manifest_path,
)
from schemas.target import Target

SIZE = 160
POLICIES = {
    "W8A8 deploy": BitPolicy(),
    "W4A8 deploy": BitPolicy(weight_bits=4),
    "W6A6 deploy": BitPolicy(weight_bits=6, activation_bits=6),
    "W6A6 paper": BitPolicy(policy=Policy.PAPER, weight_bits=6, activation_bits=6),
}


@dataclass(frozen=True)
class Exported:
    """A student, its model file and what the manifests say; nothing of it may be changed."""

    student: Detector
    manifest: StudentManifest
    path: Path
    described: OnnxManifest

    @property
    def model(self) -> ModelProto:
        return onnx.load(self.path)


@pytest.fixture(scope="module")
def export(
    calibrated: Callable[[BitPolicy], Detector],
    traced: Callable[[BitPolicy], TracedStudent],
    images: Tensor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Exported]:
    """Export the student of a policy, once for all tests; weights of up to 4 bits as INT4."""
    made: dict[str, Exported] = {}

    def run(name: str) -> Exported:
        if name not in made:
            bits = POLICIES[name]
            path = tmp_path_factory.mktemp("exported") / "model.onnx"
            form = ExportForm(target=Target.GENERIC, image_size=SIZE, int4=bits.weight_bits <= 4)
            described = export_student(traced(bits), path, images, form)
            made[name] = Exported(calibrated(bits), traced(bits).manifest, path, described)
        return made[name]

    return run


@pytest.fixture(scope="module")
def full_precision(
    teacher: Detector, each_trace_once: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The teacher in single and in half precision."""
    folder = tmp_path_factory.mktemp("teacher")
    export_full_precision(teacher, ImageSize.square(SIZE), folder / "single.onnx", folder / "half.onnx")
    return folder / "single.onnx", folder / "half.onnx"


def of_seen_boxes(errors: NDArray[Any], outputs: NDArray[Any]) -> NDArray[Any]:
    """Errors of the corners, in pixels, where an object is seen; boxes elsewhere are arbitrary."""
    seen = outputs[:, 4:].max(axis=1) > 0.05
    assert seen.sum() > 20
    return errors[:, :4].transpose(0, 2, 1)[seen]


@pytest.mark.parametrize("name", POLICIES)
def test_outputs_are_those_of_the_simulated_student(
    export: Callable[[str], Exported], name: str, images: Tensor
) -> None:
    """Float sums in another order move a few values over a rounding boundary, so single outputs may differ."""
    exported = export(name)
    theirs = exported.student.decoded(images).detach().numpy()
    errors = np.abs(open_engine(exported.path)(images.numpy()) - theirs)
    assert errors[:, 4:].mean() < 5e-4 < theirs[:, 4:].max() / 100
    assert of_seen_boxes(errors, theirs).mean() < 0.2
    parity = exported.described.parity
    assert (parity.images, parity.image_source, parity.matched) == (4, "calibration set", 1)
    assert parity.score_mean == pytest.approx(errors[:, 4:].mean(), rel=1e-3)
    assert parity.box_max == pytest.approx(errors[:, :4].max(), rel=1e-3)


def test_the_paper_policy_has_few_roundings_and_mostly_agrees_to_float_precision(
    export: Callable[[str], Exported], images: Tensor
) -> None:
    exported = export("W6A6 paper")
    errors = np.abs(open_engine(exported.path)(images.numpy()) - exported.student.decoded(images).detach().numpy())
    assert np.quantile(errors[:, 4:], 0.75) < 1e-6
    assert np.median(errors[:, :4]) < 1e-3


@pytest.mark.parametrize("name", POLICIES)
def test_the_file_holds_the_very_integers_and_step_sizes_of_the_student(
    export: Callable[[str], Exported], name: str
) -> None:
    exported = export(name)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in exported.model.graph.initializer}
    layers = quantized_layers(exported.student.network)
    assert exported.described.weight_tensors == counts([layer.weight_quantizer.spec.bits for layer in layers.values()])
    for path, layer in layers.items():
        quantizer = layer.weight_quantizer
        integers = torch.from_numpy(stored[f"{path}.weight_quantizer.integers"].astype(np.float32))
        assert quantizer.spec.range[0] <= integers.min() <= integers.max() <= quantizer.spec.range[1]
        step_size = quantizer.step_size.detach().reshape(-1, *[1] * (integers.dim() - 1))
        assert torch.allclose(integers * step_size, quantizer(layer.weight).detach(), rtol=1e-6, atol=0)


def counts(bits: list[int]) -> dict[str, int]:
    return {str(value): bits.count(value) for value in sorted(set(bits))}


def test_weights_of_up_to_4_bits_are_stored_as_int4_and_edges_as_int8(
    export: Callable[[str], Exported], teacher: Detector
) -> None:
    kinds = {
        tensor.name.removesuffix(".weight_quantizer.integers"): tensor.data_type
        for tensor in export("W4A8 deploy").model.graph.initializer
        if tensor.name.endswith(".integers")
    }
    edges = {teacher.first_layer(), *teacher.output_layers()}
    assert {kind for name, kind in kinds.items() if name in edges} == {TensorProto.INT8}
    assert {kind for name, kind in kinds.items() if name not in edges} == {TensorProto.INT4}


def test_narrow_activations_are_clipped_and_8_bit_ones_are_not(export: Callable[[str], Exported]) -> None:
    clips = {
        name: sum(node.op_type == "Clip" for node in export(name).model.graph.node)
        for name in ("W8A8 deploy", "W6A6 deploy")
    }
    assert clips["W8A8 deploy"] == 0
    assert clips["W6A6 deploy"] > 25


def test_files_are_small(export: Callable[[str], Exported], full_precision: tuple[Path, Path]) -> None:
    single, half = (path.stat().st_size for path in full_precision)
    assert export("W8A8 deploy").described.bytes < 0.32 * single  # 0.8 M weights: the graph itself is 2 %
    assert export("W4A8 deploy").described.bytes < 0.2 * single
    assert half < 0.55 * single


def test_the_teacher_is_exported_in_single_and_half_precision(
    full_precision: tuple[Path, Path], teacher: Detector, images: Tensor
) -> None:
    theirs = teacher.decoded(images).detach().numpy()
    for path, tolerance in zip(full_precision, (1e-4, 0.05), strict=True):
        outputs = open_engine(path)(images.numpy())
        assert outputs.dtype == np.float32
        assert np.abs(outputs - theirs)[:, 4:].max() < tolerance


@pytest.mark.parametrize(
    ("name", "pixels"),
    [("onnxruntime", 0.1), ("openvino", 1.0)],  # OpenVINO computes in integers and so rounds elsewhere
)
def test_batch_height_and_width_are_free(
    export: Callable[[str], Exported], images: Tensor, name: Literal["onnxruntime", "openvino"], pixels: float
) -> None:
    pytest.importorskip(name)
    exported = export("W6A6 paper")
    engine = open_engine(exported.path, name)
    for part in (images, images[:1], images[:3, :, :128], images[:1, :, :, :128].repeat(1, 1, 2, 1)):
        theirs = exported.student.decoded(part).detach().numpy()
        errors = np.abs(engine(part.contiguous().numpy()) - theirs)
        assert errors[:, 4:].mean() < 5e-4
        assert of_seen_boxes(errors, theirs).mean() < pixels


def test_the_file_says_what_it_is_and_where_it_comes_from(export: Callable[[str], Exported]) -> None:
    exported = export("W8A8 deploy")
    model, identity = exported.model, exported.student.identity
    onnx.checker.check_model(model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 21)]
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert ast.literal_eval(said["names"]) == dict(enumerate(identity.class_names))
    assert (said["task"], said["stride"], said["imgsz"]) == ("detect", "32", "[160, 160]")
    assert ast.literal_eval(said["args"])["dynamic"] is True
    assert said["zsq_student_sha256"] == exported.manifest.weights_sha256
    assert (said["zsq_calibration_set"], said["zsq_label_mode"]) == ("of the set", "sampled")
    assert said["zsq_bits"] == "PTQ W8A8 deploy"
    assert exported.described == OnnxManifest.read(onnx_manifest_path(exported.path))


def test_ultralytics_loads_the_file_and_finds_the_same_boxes(export: Callable[[str], Exported], images: Tensor) -> None:
    exported = export("W8A8 deploy")
    library = YOLO(exported.path, task="detect")
    decoded = torch.from_numpy(open_engine(exported.path)(images.numpy()))
    ours = exported.student.suppress(decoded, Suppression(0.5, iou=0.7, multi_label=False))
    for image, mine in zip(images, ours, strict=True):
        pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)[..., ::-1]  # BGR, as OpenCV reads
        (found,) = library.predict(np.ascontiguousarray(pixels), imgsz=SIZE, conf=0.5, iou=0.7, verbose=False)
        assert found.boxes.cls.tolist() == mine.classes.tolist()
        assert len(mine) > 0
        assert float(box_iou(found.boxes.xyxy, mine.boxes).diagonal().min()) > 0.99


def test_a_flipped_byte_another_student_and_a_missing_manifest_are_found(
    export: Callable[[str], Exported], tmp_path: Path
) -> None:
    exported = export("W8A8 deploy")
    path = tmp_path / "model.onnx"
    content = bytearray(exported.path.read_bytes())
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.onnx\.json"):
        verify_onnx(path, exported.manifest)

    onnx_manifest_path(path).write_bytes(onnx_manifest_path(exported.path).read_bytes())
    assert verify_onnx(path, exported.manifest) == exported.described
    with pytest.raises(VerificationError, match="another student"):
        verify_onnx(path, exported.manifest.model_copy(update={"weights_sha256": "6" * 64}))

    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(VerificationError, match="does not match its digest"):
        verify_onnx(path, exported.manifest)


def test_an_unreadable_model_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(VerificationError, match="onnxruntime cannot read it"):
        open_engine(tmp_path / "model.onnx")


def test_a_provider_that_does_not_start_is_one_clear_line(
    export: Callable[[str], Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    providers = ("CUDAExecutionProvider", "CPUExecutionProvider")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(providers))
    with pytest.raises(ConfigError, match="CUDAExecutionProvider does not start here"):
        open_engine(export("W8A8 deploy").path, providers=providers)
