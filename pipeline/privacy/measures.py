"""What of two images is compared: small grey thumbnails, or the features of a network that is not the teacher."""

from collections.abc import Sequence
from functools import cache
from typing import Protocol

import numpy as np

from pipeline.privacy.prepared import GREY_SIDE, Floats, Prepared
from schemas.privacy import MeasureName

THUMBNAIL = 16
"""Side of a thumbnail, pixels."""
Stretch = tuple[float, float]
"""Part of a side, from where to where, as shares of it."""
WHOLE: Stretch = (0.0, 1.0)
SQUARES = (3 / 4, 2 / 3, 9 / 16)
"""What is left of the longer side of images of 4:3, 3:2 and 16:9 that were cut to a square."""
PARTS = {0.9: 0.05, 0.8: 0.1, 0.7: 0.1, 0.6: 0.1}
"""Sides of the parts of a real image that are compared as well, since somebody may have cropped it, and how far apart
they lie; both as shares of the sides of the image."""
EVEN = 2.0
"""Deviation of brightness (of 255) below which there is nothing to compare."""


class Measure(Protocol):
    """One way to compare images. All vectors have length one, or are zero where there is nothing to compare."""

    name: MeasureName
    network: str | None
    """Digest of the network behind the features."""
    floor: float
    """A distance that is near whatever real images are like among themselves."""

    def learn(self, images: Sequence[Prepared]) -> None:
        """Take from some real images what the measure is relative to; called once, before anything else."""
        ...

    def queries(self, image: Prepared) -> Floats:
        """`(V, D)`: the views of an image that is looked for among the real ones."""
        ...

    def references(self, images: Sequence[Prepared]) -> Floats:
        """`(N, W, D)`: what of each real image a view may be like."""
        ...


class PixelMeasure:
    """Thumbnails in grey, less their mean and by their deviation: light, contrast and colour do not matter.

    A real image is compared whole, in the square at its middle, and in overlapping parts.
    """

    name: MeasureName = "pixels"
    network: str | None = None
    floor = 0.35  # a correlation of 0.94

    def learn(self, images: Sequence[Prepared]) -> None:
        """See `Measure`; nothing is needed."""

    def queries(self, image: Prepared) -> Floats:
        """See `Measure`."""
        greys = np.stack([view.grey() for view in image.views()])
        return _unit(_cells(greys, _area_means(*WHOLE)).reshape(len(greys), -1))

    def references(self, images: Sequence[Prepared]) -> Floats:
        """See `Measure`."""
        stretches, pairs = _parts()
        cells = _cells(
            np.stack([image.grey() for image in images]), np.concatenate([_area_means(*s) for s in stretches])
        )
        blocks = cells.reshape(len(images), len(stretches), THUMBNAIL, len(stretches), THUMBNAIL).swapaxes(2, 3)
        rows, columns = zip(*pairs, strict=True)
        return _unit(blocks[:, rows, columns].reshape(len(images), len(pairs), -1))


def _parts() -> tuple[list[Stretch], list[tuple[int, int]]]:
    """Stretches of a side, and which pairs of them, rows and columns, are the parts of an image."""
    stretches = [WHOLE, *(((1 - share) / 2, (1 + share) / 2) for share in SQUARES)]
    pairs = [(0, 0)]
    pairs += [pair for other in range(1, len(stretches)) for pair in ((0, other), (other, 0))]
    for share, step in PARTS.items():
        offsets = np.arange(0, 1 - share + 1e-6, step)
        indices = range(len(stretches), len(stretches) + len(offsets))
        stretches += [(float(offset), float(offset) + share) for offset in offsets]
        pairs += [(row, column) for row in indices for column in indices]
    return stretches, pairs


def _cells(greys: Floats, sampler: Floats) -> Floats:
    """`(N, R, R)`: means over cells of `(N, GREY_SIDE, GREY_SIDE)` images, both sides sampled by `(R, GREY_SIDE)`."""
    columns = greys @ sampler.T
    cells: Floats = np.tensordot(columns, sampler, axes=(1, 1)).swapaxes(1, 2)
    return cells


def _unit(vectors: Floats) -> Floats:
    """Vectors along the last axis less their means, of length one; zero where they are even."""
    centred = vectors - vectors.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=-1, keepdims=True)
    even = lengths < EVEN * np.sqrt(vectors.shape[-1])
    return np.where(even, 0, centred / np.maximum(lengths, 1e-6)).astype(np.float32)


@cache
def _area_means(start: float, stop: float) -> Floats:
    """`(THUMBNAIL, GREY_SIDE)`: means over the cells of the stretch from `start` to `stop` of a side, shares of it."""
    edges = np.linspace(start, stop, THUMBNAIL + 1) * GREY_SIDE
    pixels = np.arange(GREY_SIDE)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    covered = np.maximum(overlap, 0)
    means: Floats = (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)
    return means
