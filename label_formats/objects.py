"""What labels say of objects beside their boxes. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.labels import BoxLabel
from stages.drawing import label_mask, label_outlines

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


def further_of_label(label: BoxLabel) -> dict[str, Any]:
    """What a COCO annotation says of a stored label beside its box.

    That is the run lengths of its mask with their area, or the polygon of its turned box, and its keypoints.

    Raises:
        VerificationError: its mask does not decode.
    """
    found: dict[str, Any] = {}
    if label.segmentation is not None:
        size, counts = list(label.segmentation.size), label.segmentation.counts
        area = float(label_mask(label.segmentation).sum())
        found |= {"segmentation": {"size": size, "counts": counts}, "area": area}
    elif label.turned is not None:
        found |= {"segmentation": label_outlines(label), "area": label.turned[2] * label.turned[3]}
    if label.keypoints is not None:
        seen = sum(visibility > 0 for _, _, visibility in label.keypoints)
        found |= {"keypoints": [number for point in label.keypoints for number in point], "num_keypoints": seen}
    return found
