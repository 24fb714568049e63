"""Boxes and labels as they travel with an image."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from schemas.base import Contract, Document

Coordinate = Annotated[float, Field(ge=-1e5, le=1e5)]


class LabelOrigin(StrEnum):
    """Where a box came from."""

    SAMPLED = "sampled"
    """Drawn at random by the label sampler."""
    RELABELLED = "relabelled"
    """Predicted by the full-precision detector during adaptive label sampling."""
    GIVEN = "given"
    """From somebody's annotation file."""


class BoxLabel(Contract):
    """One labelled box, COCO style."""

    bbox: tuple[Coordinate, Coordinate, Coordinate, Coordinate] = Field(
        description="[x, y, w, h] in pixels of the stored image; x, y is the top left corner"
    )
    category_id: int = Field(ge=0, lt=100_000, description="contiguous index into the teacher's class names")
    score: float = Field(default=1.0, ge=0, le=1, description="the detector's confidence; 1 for drawn or given boxes")
    origin: LabelOrigin

    @model_validator(mode="after")
    def _has_area(self) -> Self:
        if self.bbox[2] <= 0 or self.bbox[3] <= 0:
            raise ValueError(f"bbox {list(self.bbox)} has no area")
        return self


class ImageLabels(Document):
    """The `<key>.json` beside each image of a shard."""

    width: int = Field(ge=1, le=16_384, description="pixels")
    height: int = Field(ge=1, le=16_384, description="pixels")
    boxes: tuple[BoxLabel, ...] = Field(max_length=10_000)

    @model_validator(mode="after")
    def _boxes_inside(self) -> Self:
        for box in self.boxes:
            x, y, w, h = box.bbox
            if x < -0.5 or y < -0.5 or x + w > self.width + 0.5 or y + h > self.height + 0.5:
                raise ValueError(f"bbox {list(box.bbox)} leaves the {self.width} x {self.height} image")
        return self
