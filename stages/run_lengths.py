"""COCO's compressed run lengths, read without trusting them: pycocotools takes too few and fills up with chance."""

import numpy as np
from numpy.typing import NDArray

FIRST = 48
"""Character of the value 0; each stands for 6 bits: 5 of a number, and whether more of it follow."""


def decode_mask(counts: str, height: int, width: int) -> NDArray[np.uint8]:
    """The mask `(height, width)` of run lengths, down one column after another, background first.

    Raises:
        ValueError: they are not those of a mask of that size.
    """
    runs = run_lengths(counts)
    if sum(runs) != height * width or min(runs, default=-1) < 0:
        raise ValueError(f"their sum is not the {height * width} pixels of the image")
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def run_lengths(counts: str) -> list[int]:
    """The numbers of compressed run lengths: each after the third is the difference to the one before the last.

    Raises:
        ValueError: the last one is not whole.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - FIRST
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the last number is not whole")
    return runs
