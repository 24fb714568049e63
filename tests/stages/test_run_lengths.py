"""Run lengths are read as pycocotools writes them, and nothing else is."""

import numpy as np
import pytest
from pycocotools import mask as coco

from stages.run_lengths import decode_mask


@pytest.mark.parametrize("seed", range(8))
def test_masks_come_back_as_they_were(seed: int) -> None:
    generator = np.random.default_rng(seed)
    height, width = (int(side) for side in generator.integers(1, 70, 2))
    mask = (generator.random((height, width)) < generator.random()).astype(np.uint8)
    mask[: height // 2] = seed % 2  # long runs
    code = coco.encode(np.asfortranarray(mask))
    assert np.array_equal(decode_mask(code["counts"].decode(), height, width), mask)


@pytest.mark.parametrize("counts", ["", "0", "1" * 50, "oooo", "o" * 400, "N", "PP0"])
def test_other_run_lengths_are_refused(counts: str) -> None:
    with pytest.raises(ValueError, match=r"sum is not|not whole"):
        decode_mask(counts, 6, 8)
