"""The embedded teacher, scenes it was made for, and a small network of the library to store as a checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

from detectors.detections import Detections
from detectors.embedded.scenes import VALIDATION_SEED, Scene, render_scene
from detectors.ultralytics.yolo import UltralyticsDetector

NAMES = {0: "cat", 1: "dog", 2: "cow"}


@pytest.fixture(scope="session")
def embedded() -> UltralyticsDetector:
    """The embedded teacher; tests must not change it."""
    return UltralyticsDetector.embedded()


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    """Rendered scenes that the embedded teacher was not trained on."""
    return [render_scene(VALIDATION_SEED, index) for index in range(4)]


@pytest.fixture(scope="session")
def images(scenes: list[Scene]) -> Tensor:
    """The same as a batch, `(4, 3, 160, 160)` in [0, 1]."""
    pixels = np.stack([scene.image for scene in scenes])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="session")
def labels(scenes: list[Scene]) -> list[Detections]:
    """Their labels in pixels."""
    return [Detections.of(torch.from_numpy(scene.boxes), torch.from_numpy(scene.classes)) for scene in scenes]


@pytest.fixture(scope="session")
def library_model() -> DetectionModel:
    """YOLO11n of the library with three classes and random weights, its batch norms not at their defaults."""
    torch.manual_seed(0)
    model = DetectionModel(yaml_model_load("yolo11n.yaml"), ch=3, nc=len(NAMES), verbose=False)
    model.names = dict(NAMES)
    model.train()
    with torch.no_grad():
        model(torch.rand(2, 3, 64, 64))
    return model.eval()


@pytest.fixture
def save_checkpoint(tmp_path: Path) -> Callable[[Any], Path]:
    """Write something the way `torch.save` does."""

    def save(content: Any) -> Path:
        path = tmp_path / "model.pt"
        torch.save(content, path)
        return path

    return save
