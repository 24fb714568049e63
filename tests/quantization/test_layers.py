"""Quantized layers compute what float layers do, on quantized operands."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from quantization.layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear, QuantizedMatMul
from quantization.plan import LayerPlan, QuantizerSpec

PLAN = LayerPlan(QuantizerSpec(4, "per_channel", "symmetric"), QuantizerSpec(4, "per_tensor", "affine"))
CONVOLUTIONS = {
    "plain": nn.Conv2d(4, 6, 3),
    "strided": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "grouped": nn.Conv2d(4, 8, 3, groups=4, bias=False),
    "dilated": nn.Conv2d(4, 6, 3, dilation=2, padding=2),
    "uneven": nn.Conv2d(4, 6, (1, 3), stride=(1, 2), padding=(0, 1)),
    "same": nn.Conv2d(4, 6, 3, padding="same"),
}


def initialised(layer: QuantizedLayer) -> QuantizedLayer:
    layer.weight_quantizer.initialise(layer.weight.detach().abs().flatten(1).amax(dim=1) / 7)
    layer.input_quantizer.initialise(torch.tensor([0.3]), torch.tensor([8.0]))
    return layer


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_works_on_quantized_weight_and_input(kind: str) -> None:
    plain = CONVOLUTIONS[kind]
    layer = initialised(QuantizedConv2d(plain, PLAN))
    x = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    weight = layer.weight_quantizer(layer.weight)
    expected = torch.func.functional_call(plain, {"weight": weight}, (layer.input_quantizer(x),))
    assert torch.equal(layer(x), expected)
    assert not torch.equal(layer(x), plain(x))
    layer.enabled = False
    assert torch.equal(layer(x), plain(x))


def test_a_linear_layer_works_on_quantized_weight_and_input() -> None:
    plain = nn.Linear(5, 3)
    layer = initialised(QuantizedLinear(plain, PLAN))
    x = torch.randn(7, 5)
    assert torch.equal(layer(x), F.linear(layer.input_quantizer(x), layer.weight_quantizer(plain.weight), plain.bias))


def test_gradients_reach_weight_bias_input_and_both_step_sizes() -> None:
    layer = initialised(QuantizedConv2d(nn.Conv2d(4, 6, 3), PLAN))
    x = torch.randn(2, 4, 9, 9).requires_grad_()
    layer(x).square().sum().backward()
    for gradient in (
        layer.weight.grad, layer.bias.grad if layer.bias is not None else None, x.grad,
        layer.weight_quantizer.step_size.grad, layer.input_quantizer.step_size.grad,
    ):  # fmt: skip
        assert gradient is not None
        assert float(gradient.abs().sum()) > 0


def test_padding_that_would_not_be_quantized_right_is_refused() -> None:
    with pytest.raises(ValueError, match="reflect"):
        QuantizedConv2d(nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), PLAN)


def test_a_product_works_on_both_inputs_quantized_and_learns_both_step_sizes() -> None:
    product = QuantizedMatMul(QuantizerSpec(4, "per_tensor", "affine"))
    for quantizer in (product.left_quantizer, product.right_quantizer):
        quantizer.initialise(torch.tensor([0.3]), torch.tensor([8.0]))
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 3, 4, 5, generator=generator), torch.randn(2, 3, 5, 6, generator=generator)
    assert torch.equal(product(left, right), product.left_quantizer(left) @ product.right_quantizer(right))
    assert not torch.equal(product(left, right), left @ right)
    product(left, right).square().sum().backward()
    for quantizer in (product.left_quantizer, product.right_quantizer):
        assert quantizer.step_size.grad is not None and float(quantizer.step_size.grad.abs()) > 0
    product.enabled = False
    assert torch.equal(product(left, right), left @ right)
