"""What labels say of objects beside their boxes. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Segmentation = list[list[float]] | dict[str, Any]
"""COCO's: polygons [x1, y1, x2, y2, ...] in pixels, or run lengths with `size` and `counts`."""


@dataclass(frozen=True)
class FurtherLabels:
    """What is known of the N objects of an image; None where it is not known of each.

    Attributes:
        segmentations: of each object.
        keypoints: `(N, K, 3)` float32, x and y in pixels, then 0 (not labelled), 1 (hidden) or 2 (visible).
        areas: `(N,)` float32, pixels that belong to each object.
    """

    segmentations: Sequence[Segmentation] | None = None
    keypoints: NDArray[np.float32] | None = None
    areas: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls, segmentations: Sequence[Any], points: Sequence[list[float] | None], areas: Sequence[float | None]
    ) -> "FurtherLabels":
        """What COCO annotations say, where each of them does; keypoints are x, y and v of each point."""
        counts = {len(each or ()) for each in points}
        known = len(counts) == 1 and not counts & {0} and not next(iter(counts)) % 3
        return cls(
            segmentations=segmentations if segmentations and all(segmentations) else None,
            keypoints=np.array(points, dtype=np.float32).reshape(len(points), -1, 3) if known else None,
            areas=np.array(areas, dtype=np.float32) if areas and all(areas) else None,
        )


NOTHING = FurtherLabels()
