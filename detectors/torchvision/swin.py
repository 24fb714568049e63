"""Swin Transformer (arXiv 2103.14030) as a detector's backbone: torchvision's, with attention that can be quantized.

torchvision computes attention in one function that reads the weights of its layers. Here the layers and the two matrix
products are called as modules, so that they can be replaced by quantized ones and watched by hooks.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.swin_transformer import ShiftedWindowAttention, SwinTransformer, SwinTransformerBlock
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from detectors.matmul import MatMul


class WindowAttention(ShiftedWindowAttention):
    """Attention within windows of a `(B, H, W, C)` map, shifted in every other block; parameters as in torchvision."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self.scores = MatMul()
        self.mixture = MatMul()

    def forward(self, x: Tensor) -> Tensor:
        """The attended map, same shape."""
        batch, height, width, channels = x.shape
        rows, columns = self.window_size
        x = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        sides = x.shape[1], x.shape[2]
        # A window as large as the map sees all of it: there is nothing to shift to.
        down, right = (
            0 if window >= side else shift
            for window, side, shift in zip(self.window_size, sides, self.shift_size, strict=True)
        )
        if down or right:
            x = x.roll((-down, -right), (1, 2))
        windows = into_windows(x, rows, columns)  # (B·n, rows·columns, C)
        count, tokens = windows.shape[0] // batch, rows * columns
        parts = self.qkv(windows).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)  # (B·n, heads, tokens, C / heads)
        scores = self.scores(query * query.shape[-1] ** -0.5, key.transpose(2, 3)) + self.get_relative_position_bias()
        if down or right:
            apart = separated(sides, (rows, columns), (down, right), x.device)  # (n, tokens, tokens)
            scores = scores.unflatten(0, (batch, count)).masked_fill(apart[None, :, None], MASKED).flatten(0, 1)
        mixed = self.mixture(scores.softmax(dim=-1), value).transpose(1, 2).reshape(-1, tokens, channels)
        x = self.proj(mixed).view(batch, sides[0] // rows, sides[1] // columns, rows, columns, channels)
        x = x.transpose(2, 3).reshape(batch, *sides, channels)
        if down or right:
            x = x.roll((down, right), (1, 2))
        return x[:, :height, :width].contiguous()


MASKED = -100.0
"""Score between tokens that a shift brought into one window from opposite ends of the map."""


def into_windows(x: Tensor, rows: int, columns: int) -> Tensor:
    """A `(B, H, W, C)` map, sides multiples of the window's, as `(B·windows, rows·columns, C)`."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // rows, rows, width // columns, columns, channels)
    return x.transpose(2, 3).reshape(-1, rows * columns, channels)


def separated(sides: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], device: torch.device) -> Tensor:
    """Which pairs of tokens of a shifted map's windows lie apart in the map, `(windows, tokens, tokens)` bool."""
    regions = [
        (torch.arange(side, device=device) >= side - size).long() + (torch.arange(side, device=device) >= side - by)
        if by
        else torch.zeros(side, dtype=torch.int64, device=device)
        for side, size, by in zip(sides, window, shift, strict=True)
    ]
    region = (3 * regions[0][:, None] + regions[1])[None, :, :, None]
    each = into_windows(region, *window)[:, :, 0]
    return each[:, :, None] != each[:, None]


class SwinPyramid(nn.Module):
    """A Swin Transformer whose four stages feed a feature pyramid; each stage's output is normalised on its own.

    Args:
        width: channels after the patch embedding; they double with each stage.
        depths: blocks of each stage.
        heads: attention heads in each stage.
        window: side of the windows, tokens.
        channels: of the pyramid.
    """

    def __init__(self, width: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int, channels: int) -> None:
        super().__init__()
        swin = SwinTransformer(
            [4, 4],
            width,
            list(depths),
            list(heads),
            [window, window],
            stochastic_depth_prob=0.0,
            num_classes=1,
            block=SwinBlock,
        )
        self.body = swin.features  # patch embedding, then blocks of a stage and patch merging in turn
        widths = [width * 2**stage for stage in range(len(depths))]
        self.norms = nn.ModuleList(nn.LayerNorm(each) for each in widths)
        self.fpn = FeaturePyramidNetwork(widths, channels, extra_blocks=LastLevelMaxPool())
        self.out_channels = channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The levels of the pyramid, finest first, by name."""
        levels = OrderedDict()
        for index, part in enumerate(self.body):
            x = part(x)
            if index % 2:
                stage = index // 2
                levels[str(stage)] = self.norms[stage](x).permute(0, 3, 1, 2)
        pyramid: dict[str, Tensor] = self.fpn(levels)
        return pyramid


class SwinBlock(SwinTransformerBlock):
    """torchvision's block around `WindowAttention`."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options, attn_layer=WindowAttention)
