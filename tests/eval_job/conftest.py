"""Drawn validation data, a detector that finds what was drawn, and students made of it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from torch import Tensor

from detectors.detections import Detections
from detectors.ultralytics.yolo import UltralyticsDetector
from schemas.calibration_set import ImageSource, LabelMode
from schemas.provenance import Provenance
from schemas.qat_config import BitPolicy, QatConfig
from schemas.student import CalibrationSetReference, StudentManifest, TrainingMethod, TrainingSummary
from schemas.teacher import TeacherIdentity
from stages.storage import file_digest

CLASSES = ("red", "green")
CATEGORY_IDS = (7, 3)
DRAWN: tuple[tuple[str, tuple[int, int], tuple[tuple[int, int, int, int, int], ...]], ...] = (
    ("11.png", (64, 32), ((0, 4, 8, 20, 16), (1, 40, 2, 16, 24))),
    ("12.png", (48, 64), ((1, 8, 16, 32, 40),)),
    ("13.png", (64, 64), ()),
)
"""File name, size in pixels, and boxes as (class, x, y, w, h) in pixels."""


class ColourDetector:
    """Finds the red and the green rectangle of an image; `shift` moves what it says by so many pixels."""

    letterbox = UltralyticsDetector.letterbox
    export_obstacle = None
    smallest_input = 32

    def __init__(self, sha256: str, class_names: tuple[str, ...] = CLASSES, shift: float = 0.0) -> None:
        self.identity = TeacherIdentity(
            family="ultralytics", architecture={}, sha256=sha256, class_names=class_names, input_size=64, stride=32
        )
        self.shift = shift

    def predict(self, images: Tensor, **settings: object) -> list[Detections]:
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
def images(tmp_path: Path) -> Path:
    """A folder of drawn images."""
    folder = tmp_path / "data" / "images"
    folder.mkdir(parents=True)
    for name, (width, height), boxes in DRAWN:
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        for category, x, y, w, h in boxes:
            pixels[y : y + h, x : x + w, category] = 255
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def instances() -> dict[str, Any]:
    """Their COCO instances file, as plain values; category ids are neither contiguous nor in the teacher's order."""
    return {
        "images": [
            {"id": int(name.partition(".")[0]), "file_name": name, "width": size[0], "height": size[1]}
            for name, size, _ in DRAWN
        ],
        "annotations": [
            {"image_id": int(name.partition(".")[0]), "category_id": CATEGORY_IDS[box[0]], "bbox": list(box[1:])}
            for name, _, boxes in DRAWN
            for box in boxes
        ],
        "categories": [{"id": CATEGORY_IDS[1], "name": "green"}, {"id": CATEGORY_IDS[0], "name": "red"}],
    }


@pytest.fixture
def write_coco(images: Path) -> Callable[[Any], Path]:
    """Write a COCO file beside the drawn images."""

    def write(values: Any) -> Path:
        path = images.parent / "instances.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        return path

    return write


@pytest.fixture
def coco_file(instances: dict[str, Any], write_coco: Callable[[Any], Path]) -> Path:
    """The drawn images as a COCO file."""
    return write_coco(instances)


@pytest.fixture
def yolo_folder(images: Path) -> Path:
    """The drawn images as a YOLO folder; the image without boxes has no label file."""
    labels = images.parent / "labels"
    labels.mkdir()
    for name, (width, height), boxes in DRAWN:
        lines = [
            f"{category} {(x + w / 2) / width} {(y + h / 2) / height} {w / width} {h / height}"
            for category, x, y, w, h in boxes
        ]
        if lines:
            (labels / name).with_suffix(".txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return images.parent


@pytest.fixture
def voc_folder(images: Path) -> Path:
    """The drawn images as a VOC folder with a list of two of them; the green box of the first is difficult."""
    folder = images.parent.parent / "VOC2007"
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    images.rename(folder / "JPEGImages")
    for name, (width, height), boxes in DRAWN:
        objects = "".join(
            f"<object><name>{CLASSES[category]}</name><difficult>{int((name, category) == ('11.png', 1))}</difficult>"
            f"<bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox>"
            "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
            for category, x, y, w, h in boxes
        )
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        annotation = folder / "Annotations" / Path(name).with_suffix(".xml")
        annotation.write_text(f"<annotation><filename>x.jpg</filename>{size}{objects}</annotation>", encoding="utf-8")
    (folder / "ImageSets/Main/test.txt").write_text("11\n12\n", encoding="utf-8")
    (folder / "ImageSets/Main/red_test.txt").write_text("11  1\n12 -1\n", encoding="utf-8")
    return folder


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
