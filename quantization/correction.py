"""Output correction: every channel of a quantized layer gets the float layer's mean and spread back.

Rounding shifts and widens what a layer gives, and errors add up from layer to layer. Re-estimating batch norm mends
that in a network that still has it; where it is folded, the scale goes into the weights of the channel and their step
size alike, so that the integers stay as they are, and the shift into the bias (shift alone: arXiv 1906.04721).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantization.layers import QuantizedConv2d, QuantizedLayer

SCALE_RANGE = (0.5, 2.0)
"""A channel is not scaled beyond: one that seems to need it carries little but rounding errors."""


@dataclass(frozen=True)
class Correction:
    """y ↦ scale · (y − mean) + target, per channel, `(channels,)` each."""

    scale: Tensor
    mean: Tensor
    target: Tensor

    @classmethod
    def between(cls, wanted: Tensor, found: Tensor) -> "Correction":
        """That gives `found` the mean and standard deviation of `wanted`, `(positions, channels)`."""
        spread, target_spread = found.std(dim=0), wanted.std(dim=0)
        scale = torch.where(spread > 0, target_spread / spread, 1.0)
        return cls(scale.clamp(*SCALE_RANGE), found.mean(dim=0), wanted.mean(dim=0))

    def without_scale(self) -> "Correction":
        """The shift alone."""
        return Correction(torch.ones_like(self.scale), self.mean, self.target)

    def apply_to(self, layer: QuantizedLayer) -> None:
        """Change weights, their step sizes and the bias."""
        assert layer.bias is not None
        layer.weight.mul_(self.scale.reshape(-1, *[1] * (layer.weight.dim() - 1)))
        if layer.weight_quantizer.step_size.numel() > 1:
            layer.weight_quantizer.step_size.mul_(self.scale)
        layer.bias.sub_(self.mean).mul_(self.scale).add_(self.target)

    def of_output(self, layer: QuantizedLayer, output: Tensor) -> Tensor:
        """What the changed layer gives where it gave `output`, in its place."""
        shape = (-1, 1, 1) if isinstance(layer, QuantizedConv2d) else (-1,)
        scale, mean, target = (part.reshape(shape) for part in (self.scale, self.mean, self.target))
        return output.sub_(mean).mul_(scale).add_(target)  # in place: of many large images there is no room for more
