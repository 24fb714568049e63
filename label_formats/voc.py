"""Validation data in Pascal VOC format: XML annotations and images side by side. Imports no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from label_formats.classes import check_known, index_by_name
from label_formats.files import count_of, repeated_labels, shown, some, visible
from label_formats.given import GivenLabels, letterboxed
from label_formats.images import IMAGE_SUFFIXES, ValidationImage, ValidationSet, files_digest, image_ids, image_size
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
    def _pictures(self) -> dict[str, Path]:
        """Every image where those of the annotations are, by name."""
        files = visible(path for path in self._folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        return {file.stem: file for file in files}

    @property
    def _folder(self) -> Path:
        folder = self.annotations[0].parent
        return folder.parent / PICTURES if folder.name == ANNOTATIONS else folder

    @cached_property
    def images(self) -> list[Path]:
        """The image of each annotation, by name: the `filename` inside is often that of another machine.

        Raises:
            InputError: there is no image of that name.
        """
        if missing := [file.stem for file in self.annotations if file.stem not in self._pictures]:
            raise InputError(
                f"{shown(self.path)}: annotations without an image in {shown(self._folder)} ({some(missing)}); put "
                "them there"
            )
        return [self._pictures[file.stem] for file in self.annotations]

    def digest(self) -> str:
        """See `ValidationSource`."""
        return files_digest([*self.images, *self.annotations])

    def check(self) -> None:
        """See `ValidationSource`."""
        self.read(class_names_of(map(read_annotation, self.annotations)))
        for image in self.images:
            image_size(image)

    def read(self, class_names: Sequence[str]) -> ValidationSet:
        """See `ValidationSource`; classes are matched by name.

        Raises:
            InputError: an annotation that is none, objects of a class the teacher does not know, or nothing to measure.
        """
        annotations = [read_annotation(file) for file in self.annotations]
        index_of = index_by_name(class_names)
        unknown = sorted({each.name for found in annotations for each in found.objects} - index_of.keys())
        check_known(self.path, "objects of classes", unknown, class_names)
        named = zip(image_ids(self.images), self.images, annotations, strict=True)
        images = [_image(number, path, found, index_of) for number, path, found in named]
        return ValidationSet(
            name=str(self.path),
            format="voc",
            images=images,
            category_ids={index: index for index in range(len(class_names))},
            without_area=sum(len(found.objects) for found in annotations) - sum(len(image.boxes) for image in images),
            left_out=(*self._not_annotated(), *repeated_labels(sum(found.duplicates for found in annotations))),
        )

    def _not_annotated(self) -> tuple[str, ...]:
        """A remark on images without an annotation, where no list chooses among them."""
        if len(visible(self.annotations[0].parent.glob("*.xml"))) > len(self.annotations):
            return ()
        number = len(self._pictures.keys() - {file.stem for file in self.annotations})
        return (f"{count_of(number, 'image')} without an annotation",) if number else ()


def class_names_of(annotations: Iterable[VocAnnotation]) -> list[str]:
    """The class names in annotations, as those of a teacher that knows them all."""
    return sorted({each.name for found in annotations for each in found.objects})


def given_voc(path: Path, class_names: Sequence[str], shape: float = 1.0) -> GivenLabels:
    """The labels of each image that has any, without difficult objects; classes are matched by name.

    Images are letterboxed into a canvas of that shape, width over height.

    Raises:
        InputError: an annotation that is none, one without the size of its image, or a class the teacher does not know.
    """
    index_of = index_by_name(class_names)
    files = annotation_files(path)
    annotations = [read_annotation(file) for file in files]
    wanted = [[each for each in found.objects if not each.difficult] for found in annotations]
    check_known(
        path, "objects of classes", sorted({o.name for each in wanted for o in each} - index_of.keys()), class_names
    )
    images = []
    for file, found, objects in zip(files, annotations, wanted, strict=True):
        if objects:
            if found.size is None:
                raise InputError(f"{shown(file)}: does not say the size of its image; add a size element")
            boxes, classes = [each.box for each in objects], [index_of[each.name] for each in objects]
            images.append(letterboxed(path, file.stem, found.size, boxes, classes, shape))
    hard = sum(len(found.objects) for found in annotations) - sum(map(len, wanted))
    left_out = [count_of(hard, "difficult object")] if hard else []
    left_out += repeated_labels(sum(found.duplicates for found in annotations))
    return GivenLabels([image for image in images if len(image.boxes)], tuple(left_out))


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
