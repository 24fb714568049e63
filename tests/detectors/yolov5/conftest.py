"""Small YOLOv5 networks, and checkpoints as the repository ultralytics/yolov5 pickles them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detectors.yolov5.detector import Yolov5Detector
from detectors.yolov5.network import Yolov5Network
from schemas.teacher import TeacherIdentity
from tests.detectors.yolov5.pickled import write_checkpoint

ANCHORS = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]
BACKBONE: list[Any] = [
    [-1, 1, "Conv", [64, 6, 2, 2]],
    [-1, 1, "Conv", [128, 3, 2]],
    [-1, 3, "C3", [128]],
    [-1, 1, "Conv", [256, 3, 2]],
    [-1, 6, "C3", [256]],
    [-1, 1, "Conv", [512, 3, 2]],
    [-1, 9, "C3", [512]],
    [-1, 1, "Conv", [1024, 3, 2]],
    [-1, 3, "C3", [1024]],
    [-1, 1, "SPPF", [1024, 5]],
]
HEAD: list[Any] = [
    [-1, 1, "Conv", [512, 1, 1]],
    [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
    [[-1, 6], 1, "Concat", [1]],
    [-1, 3, "C3", [512, False]],
    [-1, 1, "Conv", [256, 1, 1]],
    [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
    [[-1, 4], 1, "Concat", [1]],
    [-1, 3, "C3", [256, False]],
    [-1, 1, "Conv", [256, 3, 2]],
    [[-1, 14], 1, "Concat", [1]],
    [-1, 3, "C3", [512, False]],
    [-1, 1, "Conv", [512, 3, 2]],
    [[-1, 10], 1, "Concat", [1]],
    [-1, 3, "C3", [1024, False]],
    [[17, 20, 23], 1, "Detect", ["nc", "anchors"]],
]
NAMES = ("cat", "dog", "cow")


def architecture(depth: float = 0.33, width: float = 0.25, **changed: Any) -> dict[str, Any]:
    """The published description, YOLOv5n unless it is scaled."""
    plain = {"nc": 3, "depth_multiple": depth, "width_multiple": width, "anchors": ANCHORS}
    return plain | {"backbone": BACKBONE, "head": HEAD} | changed


def identity(described: dict[str, Any], stride: int = 32) -> TeacherIdentity:
    return TeacherIdentity(
        family="yolov5", architecture=described, sha256="0" * 64, class_names=NAMES, input_size=64, stride=stride
    )


@pytest.fixture(scope="session")
def tiny() -> Yolov5Detector:
    """An eighth as wide as published, random weights, statistics of random images; not to be changed."""
    torch.manual_seed(0)
    detector = Yolov5Detector.build(identity(architecture(width=0.125)))
    detector.network.train()
    with torch.no_grad():
        for _ in range(3):
            detector.network(torch.rand(4, 3, 64, 64))
    detector.network.eval()
    return detector


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write a checkpoint of a network and its architecture; see `write_checkpoint`."""

    def write(network: Yolov5Network, described: dict[str, Any], names: Any = NAMES, **more: Any) -> Path:
        return write_checkpoint(
            tmp_path / "yolov5.pt", network, described, names if isinstance(names, dict) else list(names), **more
        )

    return write
