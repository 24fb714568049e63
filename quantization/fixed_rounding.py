"""Weights whose integers stay as they are while their step sizes learn.

A weight that learns crosses from step to step with the noise of its gradient, and follows the images that it learns
from. The integers that compensated rounding chose (`quantization.rounding`) do neither. With them fixed, a layer learns
a scale per output channel, which is its step size, and a bias. arXiv 2311.05109 learns such a correction at the end of
a training of the weights; here it is the training.

A scale of a channel commutes with the layer, so that the layer computes with the integers and its output is scaled
(`quantization.layers`). The gradient of the weights, a third of a layer's work, is then needed by nobody.
"""

import torch
from torch import Tensor

from quantization.fake_quantize import FakeQuantizer


class FixedRounding(FakeQuantizer):
    """A weight's quantizer that gives the same integers whatever its step sizes are: ŵ = s · q.

    Args:
        quantizer: decides the integers q, and the step sizes s that learning starts from.
        weight: `(channels, ...)`.

    Attributes:
        integers: q, shaped as the weight, as floats.
    """

    integers: Tensor

    def __init__(self, quantizer: FakeQuantizer, weight: Tensor) -> None:
        super().__init__(quantizer.spec, quantizer.step_size.numel())
        self.to(weight.device)
        self.initialise(quantizer.effective_step_size.detach())
        with torch.no_grad():
            integers = (quantizer(weight) / self._column(weight)).round()
        self.register_buffer("integers", integers)

    @property
    def scales(self) -> Tensor:
        """Step size of every output channel, `(channels,)`."""
        return self.effective_step_size.expand(self.integers.shape[0])

    def forward(self, x: Tensor) -> Tensor:
        """The quantized weight, shaped as `x`, whose values do not matter."""
        return self.integers * self._column(x)

    @torch.no_grad()
    def released(self) -> FakeQuantizer:
        """An ordinary quantizer with the step sizes that were learned."""
        quantizer = FakeQuantizer(self.spec, self.step_size.numel()).to(self.step_size.device)
        quantizer.initialise(self.effective_step_size)
        return quantizer

    def _column(self, weight: Tensor) -> Tensor:
        return self.effective_step_size.reshape(-1, *[1] * (weight.dim() - 1))
