"""Attention made of modules is torchvision's own, shifted and padded windows included."""

import pytest
import torch
from torchvision.models.swin_transformer import ShiftedWindowAttention

from detectors.torchvision.swin import SwinPyramid, WindowAttention


@pytest.mark.parametrize("size", [(14, 14), (7, 7), (5, 12), (20, 9)])
@pytest.mark.parametrize("shift", [0, 3])
def test_window_attention_equals_that_of_the_library(size: tuple[int, int], shift: int) -> None:
    torch.manual_seed(0)
    theirs = ShiftedWindowAttention(16, [7, 7], [shift, shift], 4).eval()
    torch.nn.init.normal_(theirs.relative_position_bias_table)
    mine = WindowAttention(16, [7, 7], [shift, shift], 4).eval()
    mine.load_state_dict(theirs.state_dict())
    x = torch.randn(2, *size, 16)
    torch.testing.assert_close(mine(x), theirs(x))


def test_the_pyramid_has_five_levels_each_half_as_wide_as_the_one_before() -> None:
    pyramid = SwinPyramid(16, (1, 1, 2, 1), (1, 1, 2, 2), 7, 32).eval()
    levels = pyramid(torch.rand(1, 3, 128, 96))
    assert [tuple(level.shape) for level in levels.values()] == [
        (1, 32, 32, 24), (1, 32, 16, 12), (1, 32, 8, 6), (1, 32, 4, 3), (1, 32, 2, 2)
    ]  # fmt: skip
