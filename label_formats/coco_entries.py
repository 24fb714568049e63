"""The entries of a COCO file, as far as they are used. Imports no torch."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

Side = Annotated[int, Field(le=10**9)]


class Lenient(BaseModel):
    """Other tools' files: keys we do not use are theirs."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class CocoImage(Lenient):
    """An entry of `images`; labels that are used without their images need no `file_name`."""

    id: int
    file_name: str | None = None
    width: Side | None = None
    height: Side | None = None

    @field_validator("file_name")
    @classmethod
    def _below_the_folder(cls, value: str | None) -> str | None:
        if value is None:
            return None
        path = PurePosixPath(with_slashes(value))
        if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:[\\/]", value):
            raise ValueError("takes a path below the image folder")
        return value


class CocoAnnotation(Lenient):
    """An entry of `annotations`; `bbox` is [x, y, w, h] in pixels."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: bool = False
    segmentation: Any = None
    keypoints: list[float] | None = None
    area: float | None = None


class CocoCategory(Lenient):
    """An entry of `categories`."""

    id: int
    name: str


def with_slashes(name: str) -> str:
    """A path as other systems than Windows write it."""
    return name.replace("\\", "/")
