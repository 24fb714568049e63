"""Validation data in YOLO format: `images/` and `labels/` side by side, one text file per image. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from label_formats.images import IMAGE_SUFFIXES, ValidationImage, ValidationSet, files_digest, image_ids, image_size
from schemas.errors import InputError

IMAGES = "images"
LABELS = "labels"
TOLERANCE = 0.01
"""How far outside the image a coordinate may lie, as a share of its side; Ultralytics takes the same."""

Box = tuple[int, float, float, float, float]
"""Class index and normalised x1, y1, x2, y2."""


@dataclass(frozen=True)
class YoloData:
    """Implements `ValidationSource` for a folder with `images/` and `labels/`.

    An image without a label file has no boxes; a label file without an image is ignored.
    """

    folder: Path

    @cached_property
    def images(self) -> list[Path]:
        """Image files in order, those in sub-folders included."""
        return sorted(
            p for p in (self.folder / IMAGES).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
        )

    def digest(self) -> str:
        """See `ValidationSource`."""
        labels = [label for image in self.images if (label := self._label_file(image)).is_file()]
        return files_digest([*self.images, *labels])

    def read(self, class_names: Sequence[str]) -> ValidationSet:
        """See `ValidationSource`; class indices are the teacher's.

        Raises:
            InputError: a line that is not a box of a class the teacher knows, or nothing to measure.
        """
        labels = [self._read_labels(self._label_file(image), len(class_names)) for image in self.images]
        return ValidationSet(
            name=str(self.folder),
            format="yolo",
            images=[
                _image(number, path, boxes)
                for number, path, boxes in zip(image_ids(self.images), self.images, labels, strict=True)
            ],
            category_ids={index: index for index in range(len(class_names))},
            without_area=sum(not _has_area(box) for boxes in labels for box in boxes),
        )

    def _label_file(self, image: Path) -> Path:
        return (self.folder / LABELS / image.relative_to(self.folder / IMAGES)).with_suffix(".txt")

    def _read_labels(self, path: Path, classes: int) -> list[Box]:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); replace the file") from error
        return [_box(line, classes, f"{path}, line {n}") for n, line in enumerate(lines, start=1) if line.strip()]


def _box(line: str, classes: int, where: str) -> Box:
    """The box of one line: `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 …`, a polygon that the box bounds."""
    fields = line.split()
    try:
        category, numbers = float(fields[0]), np.array([float(text) for text in fields[1:]])
    except ValueError as error:
        raise InputError(f"{where}: holds something that is not a number ({error}); correct the line") from error
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise InputError(
            f"{where}: got {len(fields)} numbers; write `class cx cy w h`, or a class and at least three x y pairs"
        )
    if not category.is_integer() or not 0 <= category < classes:
        raise InputError(
            f"{where}: class index {fields[0]}, but the teacher's {classes} classes are 0 to {classes - 1}; "
            "correct the label, or evaluate a teacher of these classes"
        )
    if not ((numbers >= -TOLERANCE) & (numbers <= 1 + TOLERANCE)).all():
        raise InputError(f"{where}: coordinates must be shares of the image side, 0 to 1; divide them by its pixels")
    if len(numbers) == 4:
        (x, y), (w, h) = numbers[:2], numbers[2:]
        return int(category), x - w / 2, y - h / 2, x + w / 2, y + h / 2
    x, y = numbers[::2], numbers[1::2]
    return int(category), x.min(), y.min(), x.max(), y.max()


def _has_area(box: Box) -> bool:
    _, x1, y1, x2, y2 = box
    return x2 > x1 and y2 > y1


def _image(number: int, path: Path, boxes: list[Box]) -> ValidationImage:
    width, height = image_size(path)
    kept = [box for box in boxes if _has_area(box)]
    sides: NDArray[np.float64] = np.array([width, height, width, height])
    return ValidationImage(
        id=number,
        source=path,
        boxes=(np.array([box[1:] for box in kept]).reshape(-1, 4) * sides).astype(np.float32),
        classes=np.array([box[0] for box in kept], dtype=np.int64),
        crowd=np.zeros(len(kept), dtype=np.bool_),
    )
