"""COCO instances: one JSON file of boxes and a folder of images. Imports no torch."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from os.path import isfile
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from label_formats.boxes import boxes_inside
from label_formats.classes import check_known, index_by_name, repeated_names
from label_formats.coco_entries import CocoAnnotation, CocoCategory, CocoImage, Lenient, with_slashes
from label_formats.files import MAX_JSON_BYTES, count_of, read_bytes, repeated_labels, shown, some
from label_formats.given import GivenLabels, letterboxed
from label_formats.images import ValidationImage, ValidationSet, files_digest, image_size
from label_formats.objects import FurtherLabels, further_of_label
from schemas.errors import InputError
from schemas.labels import ImageLabels
from stages.storage import write_text

INSTANCES = "instances.json"
FILE_NAMES = (INSTANCES, "_annotations.coco.json")
"""Names of the file in a folder: ours, and Roboflow's."""


class CocoInstances(Lenient):
    """The parts of a COCO instances file that are used."""

    images: tuple[CocoImage, ...]
    annotations: tuple[CocoAnnotation, ...]
    categories: tuple[CocoCategory, ...]

    def used_categories(self) -> list[CocoCategory]:
        """The categories that have annotations; others are headings, as Roboflow's root, or classes not seen."""
        used = {annotation.category_id for annotation in self.annotations}
        return [category for category in self.categories if category.id in used]


def read_instances(path: Path) -> CocoInstances:
    """A COCO file, checked.

    Raises:
        InputError: it cannot be read, is not a COCO file, or contradicts itself.
    """
    try:
        instances = CocoInstances.model_validate_json(read_bytes(path, MAX_JSON_BYTES))
    except ValidationError as error:
        first, number = error.errors(include_url=False, include_input=False)[0], error.error_count()
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        more = f" and {number - 1} more" if number > 1 else ""
        raise InputError(
            f"{shown(path)}: not a COCO instances file ({where}: {first['msg'][:200]}{more}); correct it, or check the "
            "path"
        ) from error
    _check_references(path, instances)
    return instances


def own_names(path: Path, instances: CocoInstances | None = None) -> list[str]:
    """The category names of a file, read already or not, as the class names of a teacher that knows them all."""
    return list(dict.fromkeys(category.name for category in (instances or read_instances(path)).categories))


def given_coco(path: Path, class_names: Sequence[str], shape: float = 1.0) -> GivenLabels:
    """The labels of each image that has any, without crowd regions; categories are matched to classes by name.

    Images are letterboxed into a canvas of that shape, width over height.

    Raises:
        InputError: it is not a COCO file, an image with labels has no size, or the teacher does not know a category.
    """
    every = read_instances(path)
    instances = every.model_copy(update={"annotations": tuple(each for each in every.annotations if not each.iscrowd)})
    class_of = _class_indices(path, instances, class_names)
    by_image, duplicates = _by_image(instances)
    crowds = len(every.annotations) - len(instances.annotations)
    images = []
    for image in (image for image in instances.images if by_image[image.id]):
        if image.width is None or image.height is None:
            raise InputError(f"{shown(path)}: does not say the size of image {image.id}; add its width and height")
        corners = [(x, y, x + w, y + h) for x, y, w, h in (each.bbox for each in by_image[image.id])]
        indices = [class_of[each.category_id] for each in by_image[image.id]]
        images.append(letterboxed(path, image.id, (image.width, image.height), corners, indices, shape))
    left_out = [count_of(crowds, "crowd region")] if crowds else []
    return GivenLabels([image for image in images if len(image.boxes)], (*left_out, *duplicates))


@dataclass(frozen=True)
class CocoData:
    """Implements `ValidationSource` for a COCO JSON file and the folder its `file_name`s are in."""

    path: Path
    images: Path

    @cached_property
    def instances(self) -> CocoInstances:
        """The file, checked; see `read_instances`."""
        return read_instances(self.path)

    @cached_property
    def files(self) -> list[Path]:
        """The image file of each entry of `images`.

        A `file_name` counts from the image folder or, as other tools write it (`images/a.jpg`), from the folder above.

        Raises:
            InputError: there is none.
        """
        if nameless := [image.id for image in self.instances.images if image.file_name is None]:
            raise InputError(f"{shown(self.path)}: images without a file_name ({some(nameless)}); add them")
        names = [image.file_name or "" for image in self.instances.images]
        found = [next((path for path in self._candidates(name) if isfile(path)), None) for name in names]
        if missing := [name for name, path in zip(names, found, strict=True) if path is None]:
            raise InputError(
                f"{shown(self.path)}: images it names are not in {shown(self.images)} ({some(missing)}); set images to "
                "their folder"
            )
        return [path for path in found if path is not None]

    def _candidates(self, name: str) -> list[Path]:
        slashed = with_slashes(name)
        above = "/" in slashed or self.images.parent == self.path.parent
        return [self.images / name, self.images / slashed, *([self.images.parent / slashed] if above else [])]

    def digest(self) -> str:
        """See `ValidationSource`.

        Raises:
            InputError: the file or an image it names is missing.
        """
        return files_digest([self.path, *self.files])

    def check(self) -> None:
        """See `ValidationSource`."""
        self.read(own_names(self.path, self.instances))
        for file in self.files:
            image_size(file)

    def read(self, class_names: Sequence[str]) -> ValidationSet:
        """See `ValidationSource`; categories are matched to the teacher's classes by name.

        Raises:
            InputError: boxes of a category that the teacher does not know, or nothing to measure.
        """
        class_of = _class_indices(self.path, self.instances, class_names)
        by_image, duplicates = _by_image(self.instances)
        images = [
            _image(image, file, [each for each in by_image[image.id] if min(each.bbox[2:]) > 0], class_of)
            for image, file in zip(self.instances.images, self.files, strict=True)
        ]
        return ValidationSet(
            name=str(self.path),
            format="coco",
            images=images,
            category_ids={index: category for category, index in class_of.items()},
            without_area=sum(map(len, by_image.values())) - sum(len(image.boxes) for image in images),
            left_out=duplicates,
        )


def write_instances(
    path: Path, description: str, class_names: Sequence[str], images: Iterable[tuple[str, ImageLabels]]
) -> None:
    """Write labels as a COCO instances file; ids count from 1.

    Args:
        path: of the file.
        description: for its `info`.
        class_names: name of each class index.
        images: `file_name` and labels of each image.

    Raises:
        InputError: it cannot be written.
    """
    annotations: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    for number, (name, labels) in enumerate(images, start=1):
        entries.append({"id": number, "file_name": name, "width": labels.width, "height": labels.height})
        for label, (x, y, w, h) in boxes_inside(labels):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": label.category_id + 1,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
            }
            annotations.append(annotation | further_of_label(label))
    document = {
        "info": {"description": description},
        "categories": [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)],
        "images": entries,
        "annotations": annotations,
    }
    write_text(path, json.dumps(document) + "\n")


def _by_image(instances: CocoInstances) -> tuple[dict[int, list[CocoAnnotation]], tuple[str, ...]]:
    """The annotations of each image, one that is there twice but once, and a remark on how many are."""
    by_image: dict[int, list[CocoAnnotation]] = {image.id: [] for image in instances.images}
    once: dict[tuple[object, ...], CocoAnnotation] = {}
    for each in instances.annotations:
        once.setdefault((each.image_id, each.category_id, each.bbox, each.iscrowd), each)
    for each in once.values():
        by_image[each.image_id].append(each)
    return by_image, repeated_labels(len(instances.annotations) - len(once))


def _image(
    image: CocoImage, file: Path, annotations: list[CocoAnnotation], class_of: dict[int, int]
) -> ValidationImage:
    boxes = np.array([annotation.bbox for annotation in annotations], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return ValidationImage(
        id=image.id,
        source=file,
        boxes=boxes,
        classes=np.array([class_of[annotation.category_id] for annotation in annotations], dtype=np.int64),
        crowd=np.array([annotation.iscrowd for annotation in annotations], dtype=np.bool_),
        labelled_size=(image.width, image.height) if image.width and image.height else None,
        further=FurtherLabels.of(
            [each.segmentation for each in annotations],
            [each.keypoints for each in annotations],
            [each.area for each in annotations],
        ),
    )


def _class_indices(path: Path, instances: CocoInstances, class_names: Sequence[str]) -> dict[int, int]:
    """Category id to class index, for the categories that the teacher knows; of two of one name, the one with boxes."""
    index_of = index_by_name(class_names)
    used = instances.used_categories()
    check_known(path, "boxes of categories", [each.name for each in used if each.name not in index_of], class_names)
    taken = {category.name for category in used}
    unused = [each for each in instances.categories if each.name not in taken]
    known = [category for category in (*used, *unused) if category.name in index_of]
    return {category.id: index_of[category.name] for category in known}


def _check_references(path: Path, instances: CocoInstances) -> None:
    keys: dict[str, list[int]] = {
        "image ids": [image.id for image in instances.images],
        "category ids": [category.id for category in instances.categories],
    }
    repeats: dict[str, list[Any]] = {
        kind: [value for value, times in Counter(values).items() if times > 1] for kind, values in keys.items()
    }
    repeats["category names"] = repeated_names(category.name for category in instances.used_categories())
    for kind, repeated in repeats.items():
        if repeated:
            raise InputError(f"{shown(path)}: {kind} occur more than once ({some(repeated)}); make them unique")
    for kind, entry, listed, named in (
        ("category", "categories", keys["category ids"], {a.category_id for a in instances.annotations}),
        ("image", "images", keys["image ids"], {a.image_id for a in instances.annotations}),
    ):
        if unlisted := sorted(named.difference(listed)):
            raise InputError(
                f"{shown(path)}: annotations name {kind} ids that are not in its {entry} ({some(unlisted)}); "
                f"add them there, or remove these annotations"
            )
