"""Weights whose integers stay as they are while their step sizes learn.

A weight that learns crosses from step to step with the noise of its gradient, and follows the images that it learns
from. The integers that compensated rounding chose (`quantization.rounding`) do neither. With them fixed, a layer learns
a scale per output channel, which is its step size, and a bias. arXiv 2311.05109 learns such a correction at the end of
a training of the weights; here it is the training.
"""

import torch
from torch import Tensor, nn

from quantization.convert import quantized_layers
from quantization.fake_quantize import FakeQuantizer


class FixedRounding(FakeQuantizer):
    """A weight's quantizer that gives the same integers whatever its step sizes are: ŵ = s · q.

    Args:
        quantizer: decides the integers q, and the step sizes s that learning starts from.
        weight: `(channels, ...)`.
    """

    integers: Tensor

    def __init__(self, quantizer: FakeQuantizer, weight: Tensor) -> None:
        super().__init__(quantizer.spec, quantizer.step_size.numel())
        self.to(weight.device)
        self.initialise(quantizer.effective_step_size.detach())
        with torch.no_grad():
            integers = (quantizer(weight) / self._column(weight)).round()
        self.register_buffer("integers", integers)

    def forward(self, x: Tensor) -> Tensor:
        """The quantized weight, shaped as `x`, whose values do not matter."""
        return self.integers * self._column(x)

    def _column(self, weight: Tensor) -> Tensor:
        return self.effective_step_size.reshape(-1, *[1] * (weight.dim() - 1))


def fix_rounding(network: nn.Module) -> None:
    """Fix the integers of every quantized weight of a student, in place; what it computes stays the same."""
    for layer in quantized_layers(network).values():
        layer.weight_quantizer = FixedRounding(layer.weight_quantizer, layer.weight)


@torch.no_grad()
def release_rounding(network: nn.Module) -> None:
    """Undo `fix_rounding`, in place, and keep what was learned: weights then lie on the grid of their step sizes."""
    for layer in quantized_layers(network).values():
        fixed = layer.weight_quantizer
        if isinstance(fixed, FixedRounding):
            layer.weight.copy_(fixed(layer.weight))
            released = FakeQuantizer(fixed.spec, fixed.step_size.numel()).to(layer.weight.device)
            released.initialise(fixed.effective_step_size)
            layer.weight_quantizer = released
