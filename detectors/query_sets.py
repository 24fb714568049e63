"""What detectors have in common whose decoder refines queries that it chose among the places of the encoder."""

from collections.abc import Sequence

from torch import Tensor

ABSENT = -20.0
"""Class logit at a place that no query came from; its probability is 2e-9."""
CELL = 32
"""Unit of box distances, pixels: the coarsest level's cell, as large as those of other families are on average."""


def smallest_side(strides: Sequence[int], places: int) -> int:
    """The smallest side of a square, pixels, that has enough places.

    Args:
        strides: of the feature maps whose cells are places, each a part of the last one.
        places: how many there must be, such as a decoder's queries.
    """
    side = strides[-1]
    while sum((side // stride) ** 2 for stride in strides) < places:
        side += strides[-1]
    return side


def set_out(values: Tensor, chosen: Tensor, places: int, elsewhere: float) -> Tensor:
    """Values of queries at the places that these were chosen from, so that two detectors compare where both chose.

    Args:
        values: `(B, Q, N)`.
        chosen: place of each query, `(B, Q, 1)`.
        places: how many there are.
        elsewhere: the value of all other places.

    Returns:
        `(B, places, N)`.
    """
    empty = values.new_full((len(values), places, values.shape[2]), elsewhere)
    return empty.scatter(1, chosen.expand_as(values), values)
