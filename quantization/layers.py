"""Convolutions, linear layers and products of activations with fake-quantized inputs and weights."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from detectors.matmul import MatMul
from quantization.fake_quantize import FakeQuantizer
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
            return self.compute(x, self.weight)
        return self.compute(self.input_quantizer(x), self.weight_quantizer(self.weight))

    def set_weight_bits(self, bits: int) -> None:
        """Take another weight quantizer of the same kind, step sizes not initialised yet."""
        spec = replace(self.weight_quantizer.spec, bits=bits)
        self.weight_quantizer = weight_quantizer(self.weight, spec).to(self.weight.device)

    @abstractmethod
    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        """The float operation with given weights."""

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

    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        """See `QuantizedLayer`."""
        return F.conv2d(x, weight, self.bias, **self._geometry)

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

    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        """See `QuantizedLayer`."""
        return F.linear(x, weight, self.bias)

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
