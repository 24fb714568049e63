"""Weights that are finite and absurd, and networks larger than their file: told before anything computes with them."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from detectors.examination import examine
from detectors.family import adapter
from detectors.registry import load_teacher
from detectors.ultralytics.yolo import UltralyticsDetector
from schemas.errors import VerificationError
from schemas.teacher import TeacherSource
from tests.detectors.test_odd_checkpoints import (
    CPU,
    outcome,
    rtdetr_content,
    ultralytics_content,
    yolov5_content,
)
from tests.detectors.yolov5.pickled import repository

CONTENT = {"ultralytics": ultralytics_content, "rtdetr": rtdetr_content, "yolov5": yolov5_content}


def test_weights_that_no_training_leaves_are_refused_where_a_grey_image_shows_nothing(tmp_path: Path) -> None:
    content = ultralytics_content()
    weights = content["model"].model[-1].cv3[0][0][1].conv.weight.data
    for number, said in ((3e38, r"holds values that no training leaves \(3e\+38\)"), (1e11, None)):
        weights[0, 0] = number
        torch.save(content, tmp_path / "odd.pt")
        text = outcome(tmp_path / "odd.pt")
        assert text is None if said is None else re.search(said, str(text))


def test_outputs_that_are_not_finite_on_noise_are_refused() -> None:
    detector = UltralyticsDetector.embedded()
    first, second, _, fourth = detector.network.model[:4]
    red_without_green = torch.tensor([1e11, -1e11, 0.0])[:, None, None]  # nothing, where an image is grey
    first.conv.weight.data.copy_(red_without_green.expand_as(first.conv.weight))
    for layer in (second, fourth):
        layer.bn.weight.data.mul_(1e10)
    with pytest.raises(VerificationError, match="outputs that are not finite, on noise"):
        examine(detector, CPU)


@pytest.mark.parametrize("family", ["ultralytics", "rtdetr", "yolov5"])
def test_a_network_that_its_file_cannot_hold_is_not_built(family: Any, tmp_path: Path) -> None:
    with repository():
        content = copy.deepcopy(CONTENT[family]())
        for *_, arguments in [layer for layer in content["model"].yaml["backbone"] if layer[3]][:3]:
            arguments[0] = 16_000
        content["model"].yaml |= {"width_multiple": 8.0, "scales": {"n": [1.0, 8.0, 16_000]}, "scale": "n"}
        torch.save(content, tmp_path / "wide.pt")
    assert "numbers, more than a file of" in str(outcome(tmp_path / "wide.pt", family=family))


@pytest.mark.parametrize("family", ["ultralytics", "rtdetr", "yolov5"])
def test_weights_are_counted_as_they_are_made(family: Any, tmp_path: Path) -> None:
    with repository():
        torch.save(CONTENT[family](), tmp_path / "whole.pt")
    teacher = load_teacher(TeacherSource(path=str(tmp_path / "whole.pt"), family=family), CPU)
    made = sum(tensor.numel() for tensor in teacher.network.state_dict().values())
    assert adapter(family).numbers(teacher.identity) == made
