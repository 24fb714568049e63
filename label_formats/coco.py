"""Validation data in COCO format: one JSON file of boxes and a folder of images. Imports no torch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from label_formats.images import ValidationImage, ValidationSet, files_digest, some
from schemas.errors import InputError


class _Lenient(BaseModel):
    """Other tools' files: keys we do not use are theirs."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class CocoImage(_Lenient):
    """An entry of `images`."""

    id: int
    file_name: str
    width: int | None = None
    height: int | None = None

    @field_validator("file_name")
    @classmethod
    def _below_the_folder(cls, value: str) -> str:
        if Path(value).is_absolute() or ".." in Path(value).parts:
            raise ValueError("takes a path below the image folder")
        return value


class CocoAnnotation(_Lenient):
    """An entry of `annotations`; `bbox` is [x, y, w, h] in pixels."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: bool = False


class CocoCategory(_Lenient):
    """An entry of `categories`."""

    id: int
    name: str


class CocoInstances(_Lenient):
    """The parts of a COCO instances file that evaluation uses."""

    images: tuple[CocoImage, ...]
    annotations: tuple[CocoAnnotation, ...]
    categories: tuple[CocoCategory, ...]


@dataclass(frozen=True)
class CocoData:
    """Implements `ValidationSource` for a COCO JSON file and the folder its `file_name`s are in."""

    path: Path
    images: Path

    @cached_property
    def instances(self) -> CocoInstances:
        """The file, checked.

        Raises:
            InputError: it cannot be read, is not a COCO file, or contradicts itself.
        """
        try:
            instances = CocoInstances.model_validate_json(self.path.read_bytes())
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror or error}); check data") from error
        except ValidationError as error:
            first, number = error.errors(include_url=False, include_input=False)[0], error.error_count()
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            more = f" and {number - 1} more" if number > 1 else ""
            raise InputError(
                f"{self.path}: not a COCO instances file ({where}: {first['msg']}{more}); correct it, or check data"
            ) from error
        self._check_references(instances)
        return instances

    def digest(self) -> str:
        """See `ValidationSource`.

        Raises:
            InputError: the file or an image it names is missing.
        """
        files = [self.images / image.file_name for image in self.instances.images]
        if missing := [path.name for path in files if not path.is_file()]:
            raise InputError(
                f"{self.path}: images it names are not in {self.images} ({some(missing)}); set images to their folder"
            )
        return files_digest([self.path, *files])

    def read(self, class_names: Sequence[str]) -> ValidationSet:
        """See `ValidationSource`; categories are matched to the teacher's classes by name.

        Raises:
            InputError: boxes of a category that the teacher does not know, or nothing to measure.
        """
        class_of = self._class_indices(class_names)
        by_image: dict[int, list[CocoAnnotation]] = {image.id: [] for image in self.instances.images}
        without_area = 0
        for annotation in self.instances.annotations:
            if min(annotation.bbox[2:]) > 0:
                by_image[annotation.image_id].append(annotation)
            else:
                without_area += 1
        return ValidationSet(
            name=str(self.path),
            format="coco",
            images=[self._image(image, by_image[image.id], class_of) for image in self.instances.images],
            category_ids={index: category for category, index in class_of.items()},
            without_area=without_area,
        )

    def _image(self, image: CocoImage, annotations: list[CocoAnnotation], class_of: dict[int, int]) -> ValidationImage:
        boxes = np.array([annotation.bbox for annotation in annotations], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return ValidationImage(
            id=image.id,
            source=self.images / image.file_name,
            boxes=boxes,
            classes=np.array([class_of[annotation.category_id] for annotation in annotations], dtype=np.int64),
            crowd=np.array([annotation.iscrowd for annotation in annotations], dtype=np.bool_),
            labelled_size=(image.width, image.height) if image.width and image.height else None,
        )

    def _class_indices(self, class_names: Sequence[str]) -> dict[int, int]:
        """Category id to class index, for the categories that the teacher knows."""
        index_of = {name: index for index, name in enumerate(class_names)}
        used = {annotation.category_id for annotation in self.instances.annotations}
        unknown = [c.name for c in self.instances.categories if c.id in used and c.name not in index_of]
        if unknown:
            raise InputError(
                f"{self.path}: has boxes of categories that the teacher does not know ({some(unknown)}; the teacher "
                f"knows {some(class_names)}); rename or remove them, or evaluate a teacher of these classes"
            )
        return {c.id: index_of[c.name] for c in self.instances.categories if c.name in index_of}

    def _check_references(self, instances: CocoInstances) -> None:
        keys: dict[str, list[int] | list[str]] = {
            "image ids": [image.id for image in instances.images],
            "category ids": [category.id for category in instances.categories],
            "category names": [category.name for category in instances.categories],
        }
        for kind, values in keys.items():
            if repeated := [value for value, times in Counter(values).items() if times > 1]:
                raise InputError(f"{self.path}: {kind} occur more than once ({some(repeated)}); make them unique")
        for kind, listed, named in (
            ("category", keys["category ids"], {a.category_id for a in instances.annotations}),
            ("image", keys["image ids"], {a.image_id for a in instances.annotations}),
        ):
            if unlisted := sorted(named.difference(listed)):
                entry = {"category": "categories", "image": "images"}[kind]
                raise InputError(
                    f"{self.path}: annotations name {kind} ids that are not in its {entry} ({some(unlisted)}); "
                    f"add them there, or remove these annotations"
                )
