"""The two nearest real images of each image that is looked for, while real ones pass by."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.privacy.prepared import Floats

NOBODY = -1
"""Index of a real image where there is none."""
BLOCK = 2048
"""Views that are compared with a batch of real images at a time."""


def similarities(views: Floats, starts: NDArray[np.int64], references: Floats) -> Floats:
    """How like each query is to each real image: `(Q, N)`, the largest product of a view and a part.

    Args:
        views: `(sum of V, D)` of all queries, those of one after the other.
        starts: `(Q,)` where those of each query start.
        references: `(N, W, D)`.
    """
    count, windows, size = references.shape
    flat = references.reshape(-1, size)
    blocks = (views[start : start + BLOCK] @ flat.T for start in range(0, len(views), BLOCK))
    by_view = np.concatenate([block.reshape(-1, count, windows).max(axis=2) for block in blocks])
    similar: Floats = np.maximum.reduceat(by_view, starts, axis=0)
    return similar


class Nearest:
    """The two largest similarities of each query so far, and to which real image the largest one is.

    Memory grows with the number of queries, not with that of the real images.

    Args:
        queries: `(V, D)` views of each; their numbers of views may differ.
        own: index of the real image that a query is itself, which does not count; `NOBODY` for all others.
    """

    def __init__(self, queries: Sequence[Floats], own: Sequence[int]) -> None:
        self._views = np.concatenate(queries)
        counts = [len(views) for views in queries]
        self._starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
        self._own = np.asarray(own)
        self._best = np.full((len(queries), 2), -1.0, np.float32)
        self.index: NDArray[np.int64] = np.full(len(queries), NOBODY)

    def update(self, references: Floats, first: int) -> None:
        """Compare with `(N, W, D)` real images, the first of which has index `first`."""
        count = len(references)
        similar = similarities(self._views, self._starts, references)
        own = self._own - first
        rows = np.flatnonzero((own >= 0) & (own < count))
        similar[rows, own[rows]] = -1.0
        position = similar.argmax(axis=1)
        nearer = similar.max(axis=1) > self._best[:, 0]
        self.index[nearer] = position[nearer] + first
        both = np.concatenate([self._best, similar], axis=1)
        self._best = -np.sort(-both, axis=1)[:, :2]

    def distances(self) -> NDArray[np.float64]:
        """`(Q, 2)`: distance to the nearest and to the second nearest real image, 0 to 2."""
        distances: NDArray[np.float64] = np.sqrt(np.maximum(2 - 2 * self._best.astype(np.float64), 0))
        return distances

    def ratios(self) -> NDArray[np.float64]:
        """`(Q,)`: nearest by second nearest distance; 1 where both are none."""
        nearest, second = self.distances().T
        ratios: NDArray[np.float64] = np.where(second > 0, nearest / np.maximum(second, 1e-9), 1.0)
        return ratios
