"""Evaluation at [height, width]: labels of the original images, inputs of the right shape, readable sizes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from detectors.protocol import Detector, Suppression
from eval_job import job, latency
from eval_job.__main__ import app
from eval_job.evaluate import InferenceSettings, predict
from eval_job.onnx_model import OnnxDetector
from label_formats.images import ValidationImage
from quantization.onnx.engine import open_engine
from quantization.onnx.export import export_full_precision
from schemas.evaluation import EvalReport
from schemas.image_size import ImageSize

CPU = torch.device("cpu")
SIZE = ImageSize(96, 160)


@pytest.fixture
def evaluated(
    colour_teacher: Any, teacher_file: Path, coco_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., EvalReport]:
    """The report of an evaluation of the colour teacher at a size."""
    monkeypatch.setattr(job, "load_teacher", lambda source, device: colour_teacher)

    def evaluate(size: object) -> EvalReport:
        settings = {"teacher.path": str(teacher_file), "data": str(coco_file), "image_size": size, "device": "cpu"}
        pairs = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        result = CliRunner().invoke(app, ["--output", str(tmp_path / "eval"), *pairs])
        assert result.exit_code == 0, result.output
        return EvalReport.read(tmp_path / "eval" / "report.json")

    return evaluate


@pytest.mark.parametrize("size", [[64, 128], [128, 64]])
def test_precision_is_in_pixels_of_the_original_images(
    evaluated: Callable[..., EvalReport], size: list[int], tmp_path: Path
) -> None:
    report = evaluated(size)
    assert report.data.image_size == ImageSize(*size)
    assert report.models[0].precision.map50_95 > 0.9
    assert json.loads((tmp_path / "eval" / "report.json").read_text())["data"]["image_size"] == size
    page = (tmp_path / "eval" / "report.html").read_text()
    assert f"letterboxed to {size[0]}x{size[1]} px (height x width)" in page


@pytest.mark.usefixtures("each_trace_once")
def test_onnx_runtime_finds_in_a_rectangle_what_pytorch_finds(small_teacher: Detector, tmp_path: Path) -> None:
    from detectors.embedded.scenes import VALIDATION_SEED, render_scene

    export_full_precision(small_teacher, SIZE, tmp_path / "single.onnx", tmp_path / "half.onnx")
    exported = OnnxDetector(open_engine(tmp_path / "single.onnx"), small_teacher)
    images = []
    for number in range(6):
        scene = render_scene(VALIDATION_SEED, number)
        wide = np.full((160, 320, 3), 114, dtype=np.uint8)  # the scene at the right: only its place in x tells it
        wide[:, 160:] = scene.image
        boxes = scene.boxes + np.array([160, 0, 160, 0], dtype=np.float32)
        images.append(ValidationImage(number, wide, boxes, scene.classes, np.zeros(len(boxes), dtype=np.bool_)))
    look = InferenceSettings(ImageSize(160, 320), 4, Suppression(0.3, iou=0.7, max_detections=20))
    theirs = predict(small_teacher, images, CPU, look).detections
    mine = predict(exported, images, CPU, look).detections
    found = 0
    for here, there, image in zip(mine, theirs, images, strict=True):
        torch.testing.assert_close(here.boxes, there.boxes, rtol=0, atol=0.05)
        assert here.classes.tolist() == there.classes.tolist()
        centres = (here.boxes[:, 0] + here.boxes[:, 2]) / 2
        assert bool((centres > 160).all())
        found += len(set(here.classes.tolist()) & set(image.classes.tolist()))
    assert found >= 6


def test_latency_is_that_of_an_input_of_this_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = set()

    def open_engine(path: Path, engine: str, **settings: Any) -> Any:
        def run(images: Any) -> Any:
            shapes.add(images.shape)
            return images

        return run

    monkeypatch.setattr(latency, "open_engine", open_engine)
    latency.measure_latencies({"one": Path("a")}, SIZE, engine="onnxruntime", threads=[1], repetitions=1)
    assert shapes == {(1, 3, 96, 160)}
