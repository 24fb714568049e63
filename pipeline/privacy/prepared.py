"""From an image of any size to the little that is compared: 100,000 private images are never held at full size."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.pixels import Pixels

Floats = NDArray[np.float32]
Source = TypeVar("Source")

SIDE = 160
"""Side of what is kept of an image, pixels; every image is stretched to a square."""
GREY_SIDE = 80
"""Side of its brightness."""
BATCH = 32
"""Images that are read, and compared, at a time."""
MOST_BORDER = 0.35
"""Largest share of a side that is taken for a border."""
FLAT = 5.0
"""A row or column whose pixels deviate less than this from their mean (of 255) may be part of a border."""


@dataclass(frozen=True)
class Prepared:
    """What is kept of one image: `(SIDE, SIDE, 3)` uint8 RGB."""

    pixels: Pixels

    def grey(self) -> Floats:
        """`(GREY_SIDE, GREY_SIDE)` float32 brightness, 0 to 255: means over two by two pixels."""
        grey = np.asarray(Image.fromarray(self.pixels).convert("L").reduce(SIDE // GREY_SIDE), np.float32)
        return grey

    def views(self) -> tuple["Prepared", ...]:
        """The image, the image without its borders, and both mirrored: a real image may have become any of these."""
        views = [self]
        if (box := _without_border(self.grey())) is not None:
            views.append(Prepared(np.asarray(Image.fromarray(self.pixels).resize((SIDE, SIDE), _AREA, box=box))))
        return (*views, *(Prepared(np.ascontiguousarray(view.pixels[:, ::-1])) for view in views))


_AREA = Image.Resampling.BOX


def prepare(pixels: Pixels) -> Prepared:
    """An image, `(height, width, 3)` uint8 RGB, stretched to the square that is compared."""
    image = Image.fromarray(pixels)
    resampling = _AREA if min(image.size) >= SIDE else Image.Resampling.BILINEAR
    return Prepared(np.asarray(image.resize((SIDE, SIDE), resampling)))


def prepared(sources: Sequence[Source], read: Callable[[Source], Pixels]) -> Iterator[list[Prepared]]:
    """What is kept of `BATCH` images at a time; two images are decoded at once.

    Raises:
        InputError, VerificationError: what `read` raises.
    """
    with ThreadPoolExecutor(2) as pool:
        for first in range(0, len(sources), BATCH):
            yield list(pool.map(lambda source: prepare(read(source)), sources[first : first + BATCH]))


def _without_border(grey: Floats) -> tuple[int, int, int, int] | None:
    """Left, upper, right and lower edge of what lies within even borders, such as letterboxing adds; None: no border.

    Means over several pixels are looked at, so that noise in a border does not hide it.
    """
    upper, lower = _border(grey), _border(grey[::-1])
    left, right = _border(grey.T), _border(grey.T[::-1])
    if not (left or upper or right or lower):
        return None
    scale = SIDE // GREY_SIDE
    return scale * left, scale * upper, SIDE - scale * right, SIDE - scale * lower


def _border(rows: Floats) -> int:
    """How many rows from the first on are even and as bright as it."""
    even = (rows.std(axis=1) < FLAT) & (np.abs(rows.mean(axis=1) - rows[0].mean()) < FLAT)
    return 0 if even.all() else min(int(np.argmin(even)), int(MOST_BORDER * len(rows)))
