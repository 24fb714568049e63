"""Validation data in Pascal VOC format: XML annotations and images side by side. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from label_formats.images import (
    IMAGE_SUFFIXES,
    ValidationImage,
    ValidationSet,
    files_digest,
    image_ids,
    image_size,
    some,
)
from label_formats.pascal_voc import ANNOTATIONS, PICTURES, VocAnnotation, annotation_files, read_annotation
from schemas.errors import InputError


@dataclass(frozen=True)
class VocData:
    """Implements `ValidationSource` for a folder with `Annotations/` and `JPEGImages/`, or a list of its images."""

    path: Path

    @cached_property
    def annotations(self) -> list[Path]:
        """Annotation files in order."""
        return annotation_files(self.path)

    @cached_property
    def images(self) -> list[Path]:
        """The image of each annotation, by name: the `filename` inside is often that of another machine.

        Raises:
            InputError: there is no image of that name.
        """
        folder = self.annotations[0].parent
        folder = folder.parent / PICTURES if folder.name == ANNOTATIONS else folder
        found = {file.stem: file for file in sorted(folder.glob("*")) if file.suffix.lower() in IMAGE_SUFFIXES}
        if missing := [file.stem for file in self.annotations if file.stem not in found]:
            raise InputError(f"{self.path}: annotations without an image in {folder} ({some(missing)}); put them there")
        return [found[file.stem] for file in self.annotations]

    def digest(self) -> str:
        """See `ValidationSource`."""
        return files_digest([*self.images, *self.annotations])

    def read(self, class_names: Sequence[str]) -> ValidationSet:
        """See `ValidationSource`; classes are matched by name.

        Raises:
            InputError: an annotation that is none, objects of a class the teacher does not know, or nothing to measure.
        """
        annotations = [read_annotation(file) for file in self.annotations]
        index_of = {name: index for index, name in enumerate(class_names)}
        unknown = sorted({each.name for found in annotations for each in found.objects} - index_of.keys())
        if unknown:
            raise InputError(
                f"{self.path}: has objects of classes that the teacher does not know ({some(unknown)}; the teacher "
                f"knows {some(class_names)}); rename or remove them, or evaluate a teacher of these classes"
            )
        named = zip(image_ids(self.images), self.images, annotations, strict=True)
        images = [_image(number, path, found, index_of) for number, path, found in named]
        return ValidationSet(
            name=str(self.path),
            format="voc",
            images=images,
            category_ids={index: index for index in range(len(class_names))},
            without_area=sum(len(found.objects) for found in annotations) - sum(len(image.boxes) for image in images),
        )


def _image(number: int, path: Path, annotation: VocAnnotation, index_of: dict[str, int]) -> ValidationImage:
    width, height = annotation.size or image_size(path)
    boxes = np.array([each.box for each in annotation.objects], dtype=np.float32).reshape(-1, 4)
    boxes = np.minimum(boxes, np.array([width, height, width, height], dtype=np.float32))
    kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return ValidationImage(
        id=number,
        source=path,
        boxes=boxes[kept],
        classes=np.array([index_of[each.name] for each in annotation.objects], dtype=np.int64)[kept],
        crowd=np.array([each.difficult for each in annotation.objects], dtype=np.bool_)[kept],
        labelled_size=annotation.size,
    )
