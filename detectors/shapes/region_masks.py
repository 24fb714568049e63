"""Masks on a small grid in the box of each object, as Mask R-CNN predicts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from detectors.shapes.masks import CHUNK, CodedMasks, MaskShapes, encoded
from detectors.shapes.shapes import Placement, Shapes
from schemas.image_size import ImageSize
from schemas.labels import ShapeKind

CERTAIN = 0.5
"""Probability from which a pixel is the object's, as in torchvision's reference."""


@dataclass(frozen=True)
class RegionMasks(Shapes):
    """Masks as probabilities on a grid that covers the object's box.

    Attributes:
        values: `(N, h, w)` in [0, 1].
        boxes: `(N, 4)`, pixels.
        size: of the image, pixels.
    """

    values: Tensor
    boxes: Tensor
    size: ImageSize
    kind = ShapeKind.MASK

    def __len__(self) -> int:
        return len(self.values)

    def select(self, keep: Tensor) -> Self:
        """See `Shapes`."""
        return type(self)(self.values[keep], self.boxes[keep], self.size)

    def to(self, device: torch.device) -> Self:
        """See `Shapes`."""
        return type(self)(self.values.to(device), self.boxes.to(device), self.size)

    def placed(self, image: Placement) -> CodedMasks:
        """See `Shapes`: pasted by torchvision at the size of the image, few at a time, and coded."""
        from torchvision.models.detection.roi_heads import paste_masks_in_image

        size = ImageSize(image.height, image.width)
        boxes = (self.boxes - self.boxes.new_tensor([*image.border, *image.border])) / image.scale
        count = max(1, CHUNK // size.pixels)
        codes: list[dict[str, Any]] = []
        for part in (slice(first, first + count) for first in range(0, len(self), count)):
            pasted = paste_masks_in_image(self.values[part, None], boxes[part], (size.height, size.width))
            codes += encoded(pasted[:, 0] > CERTAIN)
        return CodedMasks(tuple(codes), size)

    def coded(self) -> CodedMasks:
        """Run-length coded, at the size of the image."""
        return self.placed(Placement(1.0, (0, 0), self.size.width, self.size.height))

    def scaled(self, across: float, down: float) -> Self:
        """See `Shapes`."""
        size = ImageSize(max(1, round(self.size.height * down)), max(1, round(self.size.width * across)))
        return type(self)(self.values, self.boxes * self.boxes.new_tensor([across, down, across, down]), size)

    def flipped(self, width: int, mirror: tuple[int, ...] = ()) -> Self:
        """See `Shapes`."""
        x1, y1, x2, y2 = self.boxes.unbind(dim=1)
        return type(self)(self.values.flip(2), torch.stack((width - x2, y1, width - x1, y2), dim=1), self.size)

    def moved(self, right: int, down: int, size: ImageSize) -> Self:
        """See `Shapes`: what leaves the image is not pasted into it."""
        return type(self)(self.values, self.boxes + self.boxes.new_tensor([right, down, right, down]), self.size)

    def fields(self) -> list[dict[str, Any]]:
        """See `Shapes`."""
        return self.coded().fields()

    def results(self) -> list[dict[str, Any]]:
        """See `Shapes`."""
        return self.coded().results()

    def polygons(self) -> list[list[list[float]]]:
        """See `Shapes`."""
        return self.coded().polygons()

    def targets(self, canvas: tuple[int, int]) -> dict[str, Tensor]:
        """See `Shapes`."""
        return self.coded().targets(canvas)

    def of_targets(self, targets: dict[str, Tensor], mirror: tuple[int, ...] | None = None) -> MaskShapes:
        """See `Shapes`."""
        return MaskShapes.of(targets["masks"].as_subclass(Tensor) > 0)
