"""Fake quantization with learned step sizes and zero points, on PyTorch's fused operators.

One forward and one backward kernel per tensor (or per channel) replace chains of elementwise operators.
"""

import torch
from torch import Tensor, nn

from quantization.plan import QuantizerSpec

SMALLEST_STEP = 1e-8
"""A step size never falls below this; learning cannot make it zero or negative."""


class FakeQuantizer(nn.Module):
    """Quantize and dequantize a tensor: x̂ = (clamp(round(x / s) + z, qmin, qmax) − z) · s.

    Gradients follow LSQ (arXiv 1902.08153): straight through inside the range, and to the step size scaled by
    1 / √(N · qmax). With an affine specification the zero point learns too, as in LSQ+ (arXiv 2004.09576), but stays
    an integer in the forward pass, so that integer engines can express it.

    Args:
        spec: bits, granularity, scheme.
        channels: number of step sizes: 1 per tensor, or the size of dimension 0 per channel.
    """

    def __init__(self, spec: QuantizerSpec, channels: int = 1) -> None:
        super().__init__()
        self.spec = spec
        self.step_size = nn.Parameter(torch.ones(channels))
        self.zero_point = nn.Parameter(torch.zeros(channels), requires_grad=spec.affine)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"{self.spec.bits} bits, {self.spec.granularity}, {self.spec.scheme}"

    def initialise(self, step_size: Tensor, zero_point: Tensor | None = None) -> None:
        """Set step sizes (and zero points), `(channels,)` each."""
        with torch.no_grad():
            self.step_size.copy_(step_size.reshape(-1))
            self.zero_point.copy_(torch.zeros_like(self.zero_point) if zero_point is None else zero_point.reshape(-1))

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantized `x`, same shape; channels are dimension 0."""
        lowest, highest = self.spec.range
        step_size = self.step_size.clamp(min=SMALLEST_STEP)
        gradient_scale = (x.numel() / step_size.numel() * highest) ** -0.5
        if self.spec.granularity == "per_tensor":
            return torch._fake_quantize_learnable_per_tensor_affine(
                x, step_size, self.zero_point, lowest, highest, gradient_scale
            )
        return torch._fake_quantize_learnable_per_channel_affine(
            x, step_size, self.zero_point, 0, lowest, highest, gradient_scale
        )
