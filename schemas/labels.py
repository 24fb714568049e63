"""Boxes and labels as they travel with an image."""

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from schemas.base import Contract, Document

WITH_SHAPES = "1.1"
"""Schema version of labels with masks, keypoints or turned boxes; those of boxes alone stay readable by all."""
MAX_CODE = 1_000_000
"""Most characters of a mask's run lengths."""
MAX_MASK_PIXELS = 2**28
"""Most pixels of all masks of an image."""
Coordinate = Annotated[float, Field(ge=-1e5, le=1e5)]


class LabelOrigin(StrEnum):
    """Where a box came from."""

    SAMPLED = "sampled"
    """Drawn at random by the label sampler."""
    RELABELLED = "relabelled"
    """Predicted by the full-precision detector during adaptive label sampling."""
    GIVEN = "given"
    """From somebody's annotation file."""


class ShapeKind(StrEnum):
    """What a detector's head sees of an object."""

    BOX = "box"
    """A box alone."""
    MASK = "mask"
    """The pixels that belong to it."""
    KEYPOINTS = "keypoints"
    """Named points of it."""
    TURNED_BOX = "turned box"
    """A box at an angle."""


class Mask(Contract):
    """The pixels of an object as COCO's compressed run lengths, at the size of the image."""

    size: tuple[int, int] = Field(description="[height, width] of the image, pixels")
    counts: str = Field(min_length=1, max_length=MAX_CODE, pattern="^[0-o]+$", description="as pycocotools writes it")


Keypoint = tuple[Coordinate, Coordinate, Annotated[float, Field(ge=0, le=2)]]


class BoxLabel(Contract):
    """One labelled box, COCO style, and since version 1.1 what else is known of the object."""

    SHAPES: ClassVar[tuple[str, ...]] = ("segmentation", "keypoints", "turned")

    bbox: tuple[Coordinate, Coordinate, Coordinate, Coordinate] = Field(
        description="[x, y, w, h] in pixels of the stored image; x, y is the top left corner"
    )
    category_id: int = Field(ge=0, lt=100_000, description="contiguous index into the teacher's class names")
    score: float = Field(default=1.0, ge=0, le=1, description="the detector's confidence; 1 for drawn or given boxes")
    origin: LabelOrigin
    segmentation: Mask | None = Field(default=None, description="its pixels; left out where nobody knows them")
    keypoints: tuple[Keypoint, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=1000,
        description="[x, y, v] of each point, pixels; v is 0 where it is not labelled, 1 where it is hidden, 2 where "
        "it shows; left out where there are none",
    )
    turned: tuple[Coordinate, Coordinate, Coordinate, Coordinate, Coordinate] | None = Field(
        default=None,
        description="[cx, cy, w, h, angle] of its turned box, pixels and radians, clockwise as images are seen; left "
        "out where there is none",
    )

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

    def to_json(self) -> str:
        """See `Contract.to_json`; without kinds of shapes that no box has: labels of boxes read as they always did."""
        absent = {name for name in BoxLabel.SHAPES if all(getattr(box, name) is None for box in self.boxes)}
        return self.model_dump_json(indent=2, exclude={"boxes": {"__all__": absent}}) + "\n"

    @model_validator(mode="after")
    def _masks_bounded(self) -> Self:
        masks = sum(box.segmentation is not None for box in self.boxes)
        if masks * self.width * self.height > MAX_MASK_PIXELS:
            raise ValueError(
                f"{masks} masks of {self.width} x {self.height} pixels are more than anybody holds in memory"
            )
        return self

    @model_validator(mode="after")
    def _boxes_inside(self) -> Self:
        for box in self.boxes:
            x, y, w, h = box.bbox
            if x < -0.5 or y < -0.5 or x + w > self.width + 0.5 or y + h > self.height + 0.5:
                raise ValueError(f"bbox {list(box.bbox)} leaves the {self.width} x {self.height} image")
            if box.segmentation is not None and box.segmentation.size != (self.height, self.width):
                raise ValueError(f"a mask of {box.segmentation.size} in an image of {self.height, self.width} pixels")
        return self
