"""Fake quantization with learned step sizes and zero points.

On a CPU a few vectorised passes do what PyTorch's learnable operators compute element by element (its CPU kernels are
scalar: about ten times slower forward, five times backward). Elsewhere those operators, one fused kernel each, stay.
"""

from typing import Any

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

    Attributes:
        parts: how many equal parts of a batch there are, of which this process sees one; N counts all of them.
    """

    def __init__(self, spec: QuantizerSpec, channels: int = 1) -> None:
        super().__init__()
        self.spec = spec
        self.parts = 1
        self.step_size = nn.Parameter(torch.ones(channels))
        self.zero_point = nn.Parameter(torch.zeros(channels), requires_grad=spec.affine)

    @property
    def effective_step_size(self) -> Tensor:
        """Step sizes as the forward pass takes them, `(channels,)`: positive, whatever was learned."""
        return self.step_size.clamp(min=SMALLEST_STEP)

    @property
    def integer_zero_point(self) -> Tensor:
        """Zero points as the forward pass takes them, `(channels,)`: whole numbers inside the range, no gradient."""
        return self.zero_point.detach().round().clamp(*self.spec.range)

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
        step_size = self.effective_step_size
        gradient_scale = (x.numel() * self.parts / step_size.numel() * highest) ** -0.5
        vectorised = x.device.type == "cpu" and x.dtype == step_size.dtype
        if self.spec.granularity == "per_tensor":
            if vectorised:
                return _tensor(PerTensor.apply(x, step_size, self.zero_point, lowest, highest, gradient_scale))
            return torch._fake_quantize_learnable_per_tensor_affine(
                x, step_size, self.zero_point, lowest, highest, gradient_scale
            )
        if vectorised and not self.spec.affine:
            return _tensor(PerChannelSymmetric.apply(x, step_size, lowest, highest, gradient_scale))
        return torch._fake_quantize_learnable_per_channel_affine(
            x, step_size, self.zero_point, 0, lowest, highest, gradient_scale
        )


class PerTensor(torch.autograd.Function):
    """x̂ for one step size and zero point, `(1,)` each.

    Inside the range x̂ − x is the rounding residual, outside x̂ is one of its ends, so that with dx = dy · [inside]

        ∂/∂s = (⟨dy, x̂⟩ − ⟨dx, x⟩) / s,    ∂/∂z = −s · (Σ dy − Σ dx).

    The mask is not stored: inputs inside the range are those between its ends, half a step further out.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step_size: Tensor, zero_point: Tensor, lowest: int, highest: int, gradient_scale: float
    ) -> Tensor:
        """The fake-quantized tensor, in the memory layout of `x`."""
        zero = zero_point.detach().round().clamp(lowest, highest).item()
        quantized = rounded(x, step_size, lowest - zero, highest - zero)
        ctx.save_for_backward(x, step_size, quantized)
        ctx.limits, ctx.gradient_scale = (lowest - zero, highest - zero), gradient_scale
        return quantized

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """To the input, the step size and the zero point."""
        x, step_size, quantized = ctx.saved_tensors
        low, high = ctx.limits
        step = step_size.item()
        inside = torch.ops.aten.hardtanh_backward(gradient, x, (low - 0.5) * step, (high + 0.5) * step)
        step_gradient = zero_gradient = None
        if ctx.needs_input_grad[1]:
            residual = inner_product(gradient, quantized) - inner_product(inside, x)
            step_gradient = (residual * (ctx.gradient_scale / step)).reshape(1)
        if ctx.needs_input_grad[2]:
            zero_gradient = ((inside.sum() - gradient.sum()) * (step * ctx.gradient_scale)).reshape(1)
        return inside, step_gradient, zero_gradient, None, None, None


class PerChannelSymmetric(torch.autograd.Function):
    """x̂ for one step size per entry of dimension 0, `(channels,)`, without zero points; gradients as in `PerTensor`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step_size: Tensor, lowest: int, highest: int, gradient_scale: float) -> Tensor:
        """The fake-quantized tensor."""
        step = step_size.reshape(-1, *[1] * (x.dim() - 1))
        quantized = rounded(x, step, lowest, highest)
        ctx.save_for_backward(x, step, quantized)
        ctx.limits, ctx.gradient_scale = (lowest, highest), gradient_scale
        return quantized

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """To the input and the step sizes."""
        x, step, quantized = ctx.saved_tensors
        low, high = ctx.limits
        inside = torch.ops.aten.hardtanh_backward(gradient, x / step, low - 0.5, high + 0.5)
        step_gradient = None
        if ctx.needs_input_grad[1]:
            residual = (gradient * quantized).sub_(inside * x).flatten(1).sum(dim=1)
            step_gradient = residual * ctx.gradient_scale / step.flatten()
        return inside, step_gradient, None, None, None


def rounded(x: Tensor, step: Tensor, low: float, high: float) -> Tensor:
    """`x` as whole numbers of steps from `low` to `high`, times the step."""
    return torch.mul(x, 1 / step).round_().clamp_(low, high).mul_(step)


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """Σ a · b, by BLAS where both lie in memory alike and without gaps."""
    if a.dim() == 4 and a.stride() == b.stride() and a.is_contiguous(memory_format=torch.channels_last):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    if a.is_contiguous() and b.is_contiguous():
        return torch.dot(a.reshape(-1), b.reshape(-1))
    return (a * b).sum()


def _tensor(value: Any) -> Tensor:
    """What `apply` gives, whose type PyTorch does not say."""
    result: Tensor = value
    return result
