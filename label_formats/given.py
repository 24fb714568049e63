"""Labels without their images, both sides of which are 1: what a set with given labels is made for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from label_formats.files import shown
from schemas.errors import InputError


@dataclass(frozen=True)
class UnitLabels:
    """The labels of one image.

    Attributes:
        boxes: `(N, 4)` float64, [x1, y1, x2, y2] as shares of the sides of what the image is letterboxed to.
        classes: `(N,)` int64, indices into the teacher's class names.
    """

    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]


@dataclass(frozen=True)
class GivenLabels:
    """The images that have any label, in order, and what of the labels is left out: `2 crowd regions`."""

    images: list[UnitLabels]
    left_out: tuple[str, ...] = ()


def letterboxed(
    where: Path,
    image: object,
    size: tuple[float, float],
    edges: Sequence[Sequence[float]],
    classes: Sequence[int],
    shape: float,
) -> UnitLabels:
    """Boxes in pixels, cut at the edges of their image, which is letterboxed: centred in the canvas that it just fits.

    Args:
        where: file of the labels, for an error.
        image: what the labels call their image, for an error.
        size: width and height of the image, pixels.
        edges: [x1, y1, x2, y2] of each box, pixels; one without area inside the image is left out.
        classes: class index of each box.
        shape: width over height of the canvas.

    Raises:
        InputError: a number is not finite, or a side is not positive.
    """
    width, height = size
    if not (0 < width < math.inf and 0 < height < math.inf and all(map(math.isfinite, chain.from_iterable(edges)))):
        raise InputError(f"{shown(where)}: image {image} has a size or a box that is not finite and positive")
    across, down = max(width, height * shape), max(height, width / shape)
    left, top = (across - width) / 2, (down - height) / 2
    boxes, kept = [], []
    for (x1, y1, x2, y2), index in zip(edges, classes, strict=True):
        x1, x2 = (min(max(edge, 0.0), width) for edge in (x1, x2))
        y1, y2 = (min(max(edge, 0.0), height) for edge in (y1, y2))
        if x2 > x1 and y2 > y1:
            boxes.append([(left + x1) / across, (top + y1) / down, (left + x2) / across, (top + y2) / down])
            kept.append(index)
    return unit_labels(boxes, kept)


def unit_labels(boxes: Sequence[Sequence[float]], classes: Sequence[int]) -> UnitLabels:
    """Labels from [x1, y1, x2, y2] on the unit square and class indices, both of them possibly none."""
    return UnitLabels(np.array(boxes, np.float64).reshape(-1, 4), np.array(classes, np.int64))
