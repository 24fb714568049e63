"""Convolutions, linear layers and products of activations with fake-quantized inputs and weights."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.matmul import MatMul
from quantization.fake_quantize import FakeQuantizer
from quantization.fixed_rounding import FixedRounding
from quantization.plan import LayerPlan, QuantizerSpec


class QuantizedLayer(nn.Module, ABC):
    """What both kinds share: a float layer's parameters, and one quantizer for its weight and one for its input.

    While `enabled` is False the layer computes in float; calibration needs that.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, plan: LayerPlan) -> None:
        super().__init__()
        self.weight = layer.weight
        self.bias = layer.bias
        self.weight_quantizer = weight_quantizer(layer.weight, plan.weight)
        self.input_quantizer = FakeQuantizer(plan.input)
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output on `x`."""
        if not self.enabled:
            return self.compute(x, self.weight, self.bias)
        quantizer, seen = self.weight_quantizer, self.input_quantizer(x)
        if isinstance(quantizer, FixedRounding):
            return self.scaled(self.compute(seen, quantizer.integers, None), quantizer.scales)
        return self.compute(seen, quantizer(self.weight), self.bias)

    def fix_rounding(self) -> None:
        """Fix the integers of the weight while its step sizes learn; what the layer computes stays the same."""
        self.weight_quantizer = FixedRounding(self.weight_quantizer, self.weight)

    @torch.no_grad()
    def release_rounding(self) -> None:
        """Undo `fix_rounding` and keep what was learned: the weight then lies on the grid of its step sizes."""
        if isinstance(self.weight_quantizer, FixedRounding):
            self.weight.copy_(self.weight_quantizer(self.weight))
            self.weight_quantizer = self.weight_quantizer.released()

    def set_weight_bits(self, bits: int) -> None:
        """Take another weight quantizer of the same kind, step sizes not initialised yet."""
        spec = replace(self.weight_quantizer.spec, bits=bits)
        self.weight_quantizer = weight_quantizer(self.weight, spec).to(self.weight.device)

    @abstractmethod
    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The float operation with given weights."""

    @abstractmethod
    def scaled(self, output: Tensor, scales: Tensor) -> Tensor:
        """An output without bias, times a scale for each of its channels, `(channels,)`, and with the bias."""

    @abstractmethod
    def columns(self, x: Tensor) -> Tensor:
        """What outputs are weighted sums of: `(groups, inputs, positions)` of an input of the layer."""


def weight_quantizer(weight: Tensor, spec: QuantizerSpec) -> FakeQuantizer:
    """A quantizer for `weight`, channels first."""
    return FakeQuantizer(spec, weight.shape[0] if spec.granularity == "per_channel" else 1)


class QuantizedConv2d(QuantizedLayer):
    """`nn.Conv2d` with quantizers."""

    def __init__(self, layer: nn.Conv2d, plan: LayerPlan) -> None:
        super().__init__(layer, plan)
        if layer.padding_mode != "zeros":
            raise ValueError(f"padding mode {layer.padding_mode!r} is not supported")
        self._geometry: dict[str, Any] = {
            "stride": layer.stride,
            "padding": layer.padding,
            "dilation": layer.dilation,
            "groups": layer.groups,
        }

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `QuantizedLayer`."""
        return F.conv2d(x, weight, bias, **self._geometry)

    def scaled(self, output: Tensor, scales: Tensor) -> Tensor:
        """See `QuantizedLayer`; by the kernels of a batch norm of mean 0 and variance 1, one pass there and back."""
        zeros, ones = torch.zeros_like(scales), torch.ones_like(scales)
        return F.batch_norm(output, zeros, ones, scales, self.bias, training=False, eps=0.0)

    def columns(self, x: Tensor) -> Tensor:
        """See `QuantizedLayer`; the patches under the kernel."""
        groups, kernel = self._geometry["groups"], self.weight.shape[2:]
        dilation, padding, stride = (self._geometry[key] for key in ("dilation", "padding", "stride"))
        if isinstance(padding, str):  # "same" pads the far side more where the two differ
            reach = [step * (side - 1) if padding == "same" else 0 for step, side in zip(dilation, kernel, strict=True)]
            x = F.pad(x, [part for total in reversed(reach) for part in (total // 2, total - total // 2)])
            padding = 0
        patches = F.unfold(x, kernel, dilation, padding, stride)  # (B, C · kernel, positions of one image)
        return patches.transpose(0, 1).reshape(groups, self.weight[0].numel(), -1)


class QuantizedLinear(QuantizedLayer):
    """`nn.Linear` with quantizers."""

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `QuantizedLayer`."""
        return F.linear(x, weight, bias)

    def scaled(self, output: Tensor, scales: Tensor) -> Tensor:
        """See `QuantizedLayer`."""
        return output * scales if self.bias is None else torch.addcmul(self.bias, output, scales)

    def columns(self, x: Tensor) -> Tensor:
        """See `QuantizedLayer`; the rows of `x`."""
        return x.reshape(1, -1, x.shape[-1]).transpose(1, 2)


class QuantizedMatMul(MatMul):
    """`MatMul` with a quantizer for each of its two inputs; while `enabled` is False it computes in float."""

    def __init__(self, spec: QuantizerSpec) -> None:
        super().__init__()
        self.left_quantizer = FakeQuantizer(spec)
        self.right_quantizer = FakeQuantizer(spec)
        self.enabled = True

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """See `MatMul`."""
        if not self.enabled:
            return super().forward(left, right)
        return super().forward(self.left_quantizer(left), self.right_quantizer(right))
