"""What every kind of shape can do. The jobs handle shapes through this alone, as they handle boxes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from schemas.image_size import ImageSize
from schemas.labels import ShapeKind


@dataclass(frozen=True)
class Placement:
    """Where a letterboxed image lies on its canvas.

    Attributes:
        scale: canvas pixels of a pixel of the image.
        border: (left, top) of the image on the canvas, pixels.
        width: of the image, pixels.
        height: of the image, pixels.
    """

    scale: float
    border: tuple[int, int]
    width: int
    height: int


class Shapes(ABC):
    """The shapes of N objects of one image, in its pixels."""

    kind: ClassVar[ShapeKind]

    @abstractmethod
    def __len__(self) -> int:
        """Number of objects."""

    @abstractmethod
    def select(self, keep: Tensor) -> Self:
        """The shapes that `keep` (a mask or indices) names."""

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """The same on another device."""

    @abstractmethod
    def scaled(self, across: float, down: float) -> Self:
        """The same for an image whose sides are multiplied."""

    @abstractmethod
    def flipped(self, width: int, mirror: tuple[int, ...]) -> Self:
        """The same for an image of `width` pixels that is mirrored left to right; for `mirror` see `Detector`."""

    @abstractmethod
    def moved(self, right: int, down: int, size: ImageSize) -> Self:
        """The same moved by whole pixels in an image of `size`; what leaves it is cut."""

    @abstractmethod
    def placed(self, image: Placement) -> Shapes:
        """Shapes on a letterboxed canvas in pixels of the image it shows, in a form that takes little memory."""

    @abstractmethod
    def fields(self) -> list[dict[str, Any]]:
        """The fields of `BoxLabel` that hold each object's shape."""

    @abstractmethod
    def results(self) -> list[dict[str, Any]]:
        """What COCO results and annotations hold of each object."""

    @abstractmethod
    def polygons(self) -> list[list[list[float]]]:
        """Outlines of each object to be drawn: lists of [x1, y1, x2, y2, ...] in pixels."""

    def dots(self) -> list[list[list[float]]]:
        """Points of each object to be drawn: lists of [x, y, v], v 0 where there is none."""
        return [[] for _ in range(len(self))]

    @abstractmethod
    def targets(self, canvas: tuple[int, int]) -> dict[str, Tensor]:
        """Tensors of N objects each that torchvision's transforms change along with an image of `canvas` (H, W)."""

    @abstractmethod
    def of_targets(self, targets: dict[str, Tensor], mirror: tuple[int, ...] | None) -> Shapes:
        """The shapes that `targets` became; for `mirror` see `Detector`, None where the image was not mirrored."""
