"""How shapes of objects are drawn, on the contact sheet and in the report. Imports no torch."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigError, VerificationError
from schemas.labels import BoxLabel, Mask
from stages.run_lengths import decode_mask

PERSON = 17
"""Keypoints of COCO's persons."""
PERSON_BONES = ((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9),
                (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6))  # fmt: skip
"""Pairs of those keypoints that COCO joins by a line."""
SMALLEST_OUTLINE = 3
"""Corners of a polygon."""


def bones_of(points: int) -> Sequence[tuple[int, int]]:
    """Which keypoints of so many are joined by a line: as COCO has it for persons, else each with the next."""
    return PERSON_BONES if points == PERSON else [(k, k + 1) for k in range(points - 1)]


def label_outlines(label: BoxLabel) -> list[list[float]]:
    """The outlines [x1, y1, x2, y2, ...] of a stored label, pixels: of its mask without holes, or of its turned box.

    Raises:
        VerificationError: its mask does not decode.
    """
    if label.turned is not None:
        cx, cy, w, h, angle = label.turned
        cos, sin = math.cos(angle), math.sin(angle)
        corners = ((w, h), (-w, h), (-w, -h), (w, -h))
        return [[v for x, y in corners for v in (cx + (x * cos - y * sin) / 2, cy + (x * sin + y * cos) / 2)]]
    return [] if label.segmentation is None else mask_outlines(label_mask(label.segmentation))


def label_mask(mask: Mask) -> NDArray[np.uint8]:
    """The pixels `(H, W)` of a stored mask, 1 where the object is.

    Raises:
        VerificationError: it does not decode.
    """
    try:
        return decode_mask(mask.counts, *mask.size)
    except ValueError as error:
        raise VerificationError(f"a mask of the labels does not decode ({error})") from error


def mask_outlines(mask: NDArray[np.uint8]) -> list[list[float]]:
    """The outlines of a mask `(H, W)` as [x1, y1, x2, y2, ...] each, holes left out.

    Raises:
        ConfigError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:  # the image of `zsq set` has none
        raise ConfigError(
            "outlines of masks take OpenCV, which is not installed: pip install opencv-python-headless, or export as "
            "coco, which keeps masks as they are"
        ) from error
    found, _ = cv2.findContours(np.ascontiguousarray(mask), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [(each.reshape(-1) + 0.5).tolist() for each in found if len(each) >= SMALLEST_OUTLINE]
