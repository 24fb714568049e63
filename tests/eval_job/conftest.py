"""Drawn validation data, a detector that finds what was drawn, and students made of it."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from safetensors.numpy import save_file
from torch import Tensor

from detectors.detections import Detections
from detectors.protocol import Suppression
from detectors.ultralytics.yolo import UltralyticsDetector
from schemas.calibration_set import ImageSource, LabelMode
from schemas.labels import ShapeKind
from schemas.provenance import Provenance
from schemas.qat_config import BitPolicy, QatConfig
from schemas.student import CalibrationSetReference, StudentManifest, TrainingMethod, TrainingSummary
from schemas.teacher import TeacherIdentity
from stages.storage import file_digest
from tests.drawn import CLASSES, coco_file, images, instances, voc_folder, write_coco, yolo_folder

__all__ = ["coco_file", "images", "instances", "voc_folder", "write_coco", "yolo_folder"]


class ColourDetector:
    """Finds the red and the green rectangle of an image; `shift` moves what it says by so many pixels."""

    letterbox = UltralyticsDetector.letterbox
    export_obstacle = None
    smallest_input = 32
    needs_squares = None
    sees = predicts = ShapeKind.BOX

    def __init__(self, sha256: str, class_names: tuple[str, ...] = CLASSES, shift: float = 0.0) -> None:
        self.identity = TeacherIdentity(
            family="ultralytics", architecture={}, sha256=sha256, class_names=class_names, input_size=64, stride=32
        )
        self.shift = shift

    def predict(self, images: Tensor, limits: Suppression) -> list[Detections]:
        return [self._find(image) for image in images]

    def _find(self, image: Tensor) -> Detections:
        boxes, classes = [], []
        for index, (channel, other) in enumerate(((0, 1), (1, 0))):
            rows, columns = torch.where((image[channel] > 0.5) & (image[other] < 0.3))
            if len(rows):
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                classes.append(index)
        found = Detections.of(torch.tensor(boxes, dtype=torch.float32), torch.tensor(classes))
        return Detections(found.boxes + self.shift, found.classes, torch.full((len(found),), 0.9))


@pytest.fixture
def teacher_file(tmp_path: Path) -> Path:
    """Stands for the checkpoint of a `ColourDetector`."""
    path = tmp_path / "teacher.pt"
    path.write_bytes(b"a teacher")
    return path


@pytest.fixture
def colour_teacher(teacher_file: Path) -> ColourDetector:
    """The teacher of that checkpoint."""
    return ColourDetector(file_digest(teacher_file))


@pytest.fixture
def write_student(tmp_path: Path, colour_teacher: ColourDetector) -> Callable[..., Path]:
    """Write a student of the colour teacher; its weights are those of no layer."""

    def write(
        name: str, method: TrainingMethod = TrainingMethod.QAT, image_size: int = 64, teacher_sha256: str | None = None
    ) -> Path:
        identity = colour_teacher.identity.model_copy(
            update={"sha256": teacher_sha256 or colour_teacher.identity.sha256}
        )
        folder = tmp_path / name
        folder.mkdir(parents=True)
        save_file({}, folder / "model.safetensors", metadata={"student": name})
        manifest = StudentManifest(
            teacher=identity,
            method=method,
            bits=BitPolicy(weight_bits=4),
            quantizers=(),
            calibration_set=CalibrationSetReference(
                digest="d", samples=1, image_size=image_size,
                label_mode=LabelMode.SAMPLED, image_source=ImageSource.SYNTHESIZED,
            ),
            qat=QatConfig(),
            training=TrainingSummary(steps=0, seconds=0.0, first_loss=None, last_loss=None),
            weights_sha256=file_digest(folder / "model.safetensors"),
            provenance=Provenance(
                stage="qat", key="k", config={}, inputs={}, code_version="0", created=datetime.now(UTC)
            ),
        )  # fmt: skip
        (folder / "student.json").write_text(manifest.to_json(), encoding="utf-8")
        return folder

    return write
