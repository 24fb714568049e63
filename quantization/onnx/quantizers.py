"""Quantizers as ONNX has them: integer weights with DequantizeLinear, activations through QuantizeLinear and back."""

import torch
from torch import Tensor, nn

from quantization.convert import quantized_layers, replace_activation_quantizers
from quantization.fake_quantize import FakeQuantizer

OPSET = 21
"""ONNX operator set: the first with 4-bit integers."""
STORED_BITS = 8
"""Bits of the integers that engines compute with."""


def replace_quantizers(network: nn.Module) -> None:
    """Put the stand-ins below in the place of every quantizer of a student's network, in place.

    The network can then be exported, and no longer run.
    """
    for layer in quantized_layers(network).values():
        layer.weight_quantizer = IntegerWeight(layer.weight_quantizer, layer.weight)  # type: ignore[assignment]
    replace_activation_quantizers(network, QuantizeDequantize)


class IntegerWeight(nn.Module):
    """A weight as INT8 values and their step sizes: symmetric, so that there is no zero point.

    Args:
        quantizer: the weight's fake quantizer; its own rounding decides the integers.
        weight: `(channels, ...)` float.
    """

    integers: Tensor
    scale: Tensor

    def __init__(self, quantizer: FakeQuantizer, weight: Tensor) -> None:
        super().__init__()
        step_size = quantizer.effective_step_size.detach()
        with torch.no_grad():
            values = quantizer(weight) / step_size.reshape(-1, *[1] * (weight.dim() - 1))
        self._per_channel = quantizer.spec.granularity == "per_channel"
        self.register_buffer("integers", values.round().to(torch.int8))
        self.register_buffer("scale", step_size.clone() if self._per_channel else step_size.reshape(()))

    def forward(self, weight: Tensor) -> Tensor:
        """The dequantized weight; the float one is not used, so it is not exported."""
        return _operator(
            "DequantizeLinear", (self.integers, self.scale), weight.dtype, axis=0 if self._per_channel else None
        )


class QuantizeDequantize(nn.Module):
    """An activation, `(B, ...)`, through UINT8 (affine) or INT8 (symmetric) integers, one step size per tensor.

    ONNX saturates at 8 bits; below, the range is clipped in float first, to the ends of the narrower one.

    Args:
        quantizer: the activation's fake quantizer.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, quantizer: FakeQuantizer) -> None:
        super().__init__()
        lowest, highest = quantizer.spec.range
        scale = quantizer.effective_step_size.detach().reshape(())
        zero_point = quantizer.integer_zero_point.reshape(())
        self._integer = torch.uint8 if quantizer.spec.affine else torch.int8
        self._limits: tuple[float, float] | None = None
        if quantizer.spec.bits < STORED_BITS:
            self._limits = (float((lowest - zero_point) * scale), float((highest - zero_point) * scale))
        self.register_buffer("scale", scale.clone())
        self.register_buffer("zero_point", zero_point.to(self._integer))

    def forward(self, x: Tensor) -> Tensor:
        """The dequantized activation."""
        if self._limits is not None:
            x = x.clamp(*self._limits)
        integers = _operator("QuantizeLinear", (x, self.scale, self.zero_point), self._integer)
        return _operator("DequantizeLinear", (integers, self.scale, self.zero_point), x.dtype)


def _operator(name: str, inputs: tuple[Tensor, ...], dtype: torch.dtype, axis: int | None = None) -> Tensor:
    """One operator of the ONNX standard, in the traced program; its output has the shape of its first input."""
    return torch.onnx.ops.symbolic(
        name, inputs, None if axis is None else {"axis": axis}, dtype=dtype, shape=inputs[0].shape, version=OPSET
    )
