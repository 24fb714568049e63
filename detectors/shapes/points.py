"""Keypoints, and turned boxes by their corners: shapes that are points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectors.shapes.shapes import Placement, Shapes
from schemas.errors import InputError
from schemas.image_size import ImageSize
from schemas.labels import BoxLabel, ShapeKind

HIDDEN, SHOWN = 1.0, 2.0
"""Third number of a keypoint, as COCO has it: labelled and hidden, labelled and visible; 0 is not labelled."""
LARGEST_COORDINATE = 1e5
INDEX = 1.0
"""torchvision mirrors points as indices of pixels, from 0 to W - 1; here, as in boxes, they are places from 0 to W."""


@dataclass(frozen=True)
class Keypoints(Shapes):
    """K points of each object.

    Attributes:
        points: `(N, K, 3)` float: x and y in pixels, then 0 (not labelled), 1 (hidden) or 2 (visible).
        areas: `(N,)` pixels that belong to each object, where labels say so.
    """

    points: Tensor
    areas: Tensor | None = None
    kind = ShapeKind.KEYPOINTS

    def __len__(self) -> int:
        return len(self.points)

    def select(self, keep: Tensor) -> Self:
        """See `Shapes`."""
        areas = None if self.areas is None else self.areas[keep]
        return replace(self, points=self.points[keep], areas=areas)

    def to(self, device: torch.device) -> Self:
        """See `Shapes`."""
        areas = None if self.areas is None else self.areas.to(device)
        return replace(self, points=self.points.to(device), areas=areas)

    def scaled(self, across: float, down: float) -> Self:
        """See `Shapes`."""
        areas = None if self.areas is None else self.areas * across * down
        return replace(self, points=self.points * self.points.new_tensor([across, down, 1.0]), areas=areas)

    def flipped(self, width: int, mirror: tuple[int, ...]) -> Self:
        """See `Shapes`: what was left is right."""
        points = self.points[:, list(mirror)]
        x, y, seen = points.unbind(dim=2)
        return replace(self, points=torch.stack((width - x, y, seen), dim=2))

    def moved(self, right: int, down: int, size: ImageSize) -> Self:
        """See `Shapes`: a point outside is not labelled."""
        return replace(self, points=self.points + self.points.new_tensor([right, down, 0.0])).inside(size)

    def inside(self, size: ImageSize) -> Self:
        """The same, with points outside an image of `size` not labelled."""
        x, y, _ = self.points.unbind(dim=2)
        there = (x >= 0) & (y >= 0) & (x < size.width) & (y < size.height)
        return replace(self, points=self.points * there[..., None])

    def placed(self, image: Placement) -> Self:
        """See `Shapes`; points are not cut."""
        offset = self.points.new_tensor([*image.border, 0.0])
        return replace(self, points=(self.points - offset) / self.points.new_tensor([image.scale, image.scale, 1.0]))

    def fields(self) -> list[dict[str, Any]]:
        """See `Shapes`."""
        return [{"keypoints": tuple(tuple(point) for point in each)} for each in _stored(self.points).tolist()]

    def results(self) -> list[dict[str, Any]]:
        """See `Shapes`."""
        results: list[dict[str, Any]] = [
            {"keypoints": each.flatten().tolist(), "num_keypoints": int((each[:, 2] > 0).sum())}
            for each in self.points.cpu()
        ]
        for each, area in zip(results, [] if self.areas is None else self.areas.tolist(), strict=False):
            each["area"] = area
        return results

    def polygons(self) -> list[list[list[float]]]:
        """See `Shapes`: none; keypoints are drawn as points."""
        return [[] for _ in range(len(self))]

    def dots(self) -> list[list[list[float]]]:
        """See `Shapes`."""
        dots: list[list[list[float]]] = self.points.cpu().tolist()
        return dots

    def targets(self, canvas: tuple[int, int]) -> dict[str, Tensor]:
        """See `Shapes`."""
        return {"points": key_points(self.points[..., :2], canvas), "seen": self.points[..., 2]}

    def of_targets(self, targets: dict[str, Tensor], mirror: tuple[int, ...] | None) -> Self:
        """See `Shapes`."""
        found: Any = targets["points"]
        size = ImageSize(*found.canvas_size)
        points = torch.cat((found.as_subclass(Tensor), targets["seen"][..., None]), dim=2)
        if mirror is not None:
            points = points[:, list(mirror)] + points.new_tensor([INDEX, 0.0, 0.0])
        return replace(self, points=points).inside(size)


def check_keypoints(labelled: Keypoints, count: int, where: str) -> None:
    """Check that labels have as many keypoints as a detector sees of each object.

    Args:
        labelled: of the objects of an image.
        count: that the detector sees.
        where: what the labels are; an error starts with it.

    Raises:
        InputError: they have more or fewer.
    """
    points = labelled.points.shape[1]
    if len(labelled) and points != count:
        raise InputError(
            f"{where}: {points} keypoints of an object, and the detector sees {count}; name labels of those {count}, "
            "or leave the keypoints out of them"
        )


@dataclass(frozen=True)
class TurnedBoxes(Shapes):
    """Boxes at an angle.

    Attributes:
        corners: `(N, 4, 2)` float, pixels, in order around the box; [0] to [3] is its first side.
    """

    corners: Tensor
    kind = ShapeKind.TURNED_BOX

    @classmethod
    def of(cls, boxes: Tensor) -> TurnedBoxes:
        """Of `(N, 5)` [cx, cy, w, h, angle], pixels and radians."""
        from ultralytics.utils.ops import xywhr2xyxyxyxy

        return cls(xywhr2xyxyxyxy(boxes))

    @classmethod
    def around(cls, polygons: Sequence[NDArray[np.float32]]) -> TurnedBoxes:
        """The smallest rectangles around polygons `(P, 2)` each, pixels."""
        from ultralytics.utils.ops import xyxyxyxy2xywhr

        boxes = [xyxyxyxy2xywhr(polygon[None])[0] for polygon in polygons]
        return cls.of(torch.tensor(np.array(boxes), dtype=torch.float32).reshape(-1, 5))

    def as_boxes(self) -> Tensor:
        """The smallest rectangles around the corners, `(N, 5)` [cx, cy, w, h, angle]; w is the longer side."""
        from ultralytics.utils.ops import xyxyxyxy2xywhr

        boxes: Tensor = xyxyxyxy2xywhr(self.corners)
        return boxes

    def bounds(self) -> Tensor:
        """The upright boxes around them, `(N, 4)` [x1, y1, x2, y2]."""
        return torch.cat((self.corners.amin(dim=1), self.corners.amax(dim=1)), dim=1)

    def __len__(self) -> int:
        return len(self.corners)

    def select(self, keep: Tensor) -> Self:
        """See `Shapes`."""
        return replace(self, corners=self.corners[keep])

    def to(self, device: torch.device) -> Self:
        """See `Shapes`."""
        return replace(self, corners=self.corners.to(device))

    def scaled(self, across: float, down: float) -> Self:
        """See `Shapes`."""
        return replace(self, corners=self.corners * self.corners.new_tensor([across, down]))

    def flipped(self, width: int, mirror: tuple[int, ...] = ()) -> Self:
        """See `Shapes`."""
        x, y = self.corners.unbind(dim=2)
        return replace(self, corners=torch.stack((width - x, y), dim=2).flip(1))

    def moved(self, right: int, down: int, size: ImageSize) -> Self:
        """See `Shapes`; a box that reaches out is not cut, since what is left would be no rectangle."""
        return replace(self, corners=self.corners + self.corners.new_tensor([right, down]))

    def placed(self, image: Placement) -> Self:
        """See `Shapes`."""
        return replace(self, corners=(self.corners - self.corners.new_tensor(image.border)) / image.scale)

    def fields(self) -> list[dict[str, Any]]:
        """See `Shapes`."""
        return [{"turned": tuple(each)} for each in self.as_boxes().cpu().tolist()]

    def results(self) -> list[dict[str, Any]]:
        """See `Shapes`: in no COCO file; by the names that Ultralytics gives them."""
        pairs = zip(self.as_boxes().cpu().tolist(), self.corners.cpu().flatten(1).tolist(), strict=True)
        return [{"rbox": box, "poly": corners} for box, corners in pairs]

    def polygons(self) -> list[list[list[float]]]:
        """See `Shapes`."""
        return [[corners] for corners in self.corners.cpu().flatten(1).tolist()]

    def targets(self, canvas: tuple[int, int]) -> dict[str, Tensor]:
        """See `Shapes`."""
        return {"corners": key_points(self.corners, canvas)}

    def of_targets(self, targets: dict[str, Tensor], mirror: tuple[int, ...] | None) -> Self:
        """See `Shapes`."""
        corners = targets["corners"].as_subclass(Tensor)
        if mirror is not None:
            corners = corners.flip(1) + corners.new_tensor([INDEX, 0.0])
        return replace(self, corners=corners)


def key_points(points: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Points as torchvision's transforms take them."""
    from torchvision import tv_tensors

    found: Tensor = tv_tensors.KeyPoints(points, canvas_size=canvas)  # type: ignore[call-overload]
    return found


def keypoints_of(labels: list[BoxLabel]) -> Keypoints:
    """As they are stored."""
    return Keypoints(torch.tensor([label.keypoints for label in labels], dtype=torch.float32))


def turned_of(labels: list[BoxLabel]) -> TurnedBoxes:
    """As they are stored."""
    return TurnedBoxes.of(torch.tensor([label.turned for label in labels], dtype=torch.float32))


def _stored(points: Tensor) -> Tensor:
    """Within what a label may hold."""
    return points.cpu().clamp(-LARGEST_COORDINATE, LARGEST_COORDINATE)
