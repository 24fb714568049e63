"""A student of images that are wider than high: made, exported, and seen by ONNX Runtime as PyTorch sees it."""

import ast
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor
from typer.testing import Result

from detectors.detections import Detections
from detectors.protocol import Detector, Suppression
from quantization.onnx.engine import open_engine
from quantization.onnx.export import export_full_precision
from quantization.student import load_student
from schemas.image_size import ImageSize
from schemas.student import MANIFEST, OnnxManifest, StudentManifest, onnx_manifest_path
from schemas.target import Target, exported_path
from stages.shards import open_calibration_set

SIZE = ImageSize(96, 160)


@pytest.fixture(scope="module")
def wide_set(write_set: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("wide"), [96, 160])


@pytest.fixture(scope="module")
def student(qat: Callable[..., Result], wide_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    bits = {"bits__weight_bits": 8, "bits__activation_bits": 8}
    result = qat(folder, folder=wide_set, **bits, steps=1, batch=2, targets=["onnxruntime"])
    assert result.exit_code == 0, result.output
    return folder


def pixels(folder: Path) -> Tensor:
    images = np.stack([sample.image() for sample in open_calibration_set(folder).samples])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def test_its_manifests_and_its_file_name_height_before_width(student: Path) -> None:
    assert StudentManifest.read(student / MANIFEST).calibration_set.image_size == SIZE
    path = exported_path(student, Target.ONNXRUNTIME)
    assert OnnxManifest.read(onnx_manifest_path(path)).image_size == SIZE
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert ast.literal_eval(metadata["imgsz"]) == [96, 160]


def test_its_file_finds_what_the_student_finds(student: Path, wide_set: Path) -> None:
    detector, _ = load_student(student, torch.device("cpu"))
    images = torch.cat((pixels(wide_set), pixels(wide_set).flip(3)))
    outputs = torch.from_numpy(open_engine(exported_path(student, Target.ONNXRUNTIME))(images.numpy()))
    certain, all_there = (
        Suppression(confidence, iou=0.7, max_detections=100, multi_label=True) for confidence in (0.4, 0.2)
    )
    # Kernels of engines round differently from machine to machine: a score near a threshold is on either side of it,
    # and where two classes score alike, either one is the best, so both are kept.
    theirs = detector.predict(images, certain)
    assert sum(map(len, theirs)) >= 3
    assert max(float(found.boxes[:, 2].max()) for found in theirs if len(found)) > 96, "right of what a square holds"
    assert_found(theirs, detector.suppress(outputs, all_there))
    assert_found(detector.suppress(outputs, certain), detector.predict(images, all_there))


def assert_found(certain: Sequence[Detections], among: Sequence[Detections]) -> None:
    """Each object of an image has one of its class whose corners lie within 3 pixels."""
    for wanted, found in zip(certain, among, strict=True):
        for box, category in zip(wanted.boxes, wanted.classes, strict=True):
            same = found.boxes[found.classes == category]
            assert len(same) and float((same - box).abs().amax(dim=1).min()) <= 3.0


@pytest.mark.usefixtures("each_trace_once")
def test_a_full_precision_file_computes_the_same_on_both_orientations(
    teacher: Detector, wide_set: Path, tmp_path: Path
) -> None:
    export_full_precision(teacher, SIZE, tmp_path / "single.onnx", tmp_path / "half.onnx")
    engine = open_engine(tmp_path / "single.onnx")
    for images in (pixels(wide_set), pixels(wide_set).transpose(2, 3).contiguous()):
        outputs = torch.from_numpy(engine(images.numpy()))
        torch.testing.assert_close(outputs, teacher.decoded(images), rtol=1e-3, atol=1e-2)


def test_a_set_that_does_not_fit_the_stride_is_refused(
    qat: Callable[..., Result], write_set: Callable[..., Path], tmp_path: Path
) -> None:
    result = qat(tmp_path / "student", folder=write_set(tmp_path / "set", [96, 150]))
    assert result.exit_code == 2
    assert "images of 96x150 px do not fit the teacher's stride 32" in result.stderr
