"""Compensated rounding stays on the grid, is to the nearest where nothing correlates, and better where inputs do."""

import pytest
import torch
from torch import Tensor, nn

from quantization.calibrate import calibrate_weight
from quantization.layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear
from quantization.plan import LayerPlan, QuantizerSpec
from quantization.positions import of_outputs
from quantization.rounding import MOST_INPUTS, compensated, fitted, input_products, round_weights

torch.manual_seed(0)
LAYERS = {
    "dense": nn.Conv2d(6, 8, 3, padding=1),
    "strided and dilated": nn.Conv2d(6, 8, (3, 1), stride=2, dilation=2, padding=(2, 0), bias=False),
    "grouped": nn.Conv2d(6, 8, 3, groups=2),
    "depthwise": nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "padded to the same size": nn.Conv2d(6, 8, (4, 3), padding="same"),
    "not padded by name": nn.Conv2d(6, 8, 3, padding="valid"),
    "linear": nn.Linear(9, 5),
}


def quantized(layer: nn.Module, bits: int = 3) -> QuantizedLayer:
    plan = LayerPlan(QuantizerSpec(bits, "per_channel", "symmetric"), QuantizerSpec(8, "per_tensor", "affine"))
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    made = QuantizedConv2d(layer, plan) if isinstance(layer, nn.Conv2d) else QuantizedLinear(layer, plan)
    calibrate_weight(made)
    made.input_quantizer.initialise(torch.tensor([0.02]), torch.tensor([128.0]))
    return made


def correlated(layer: nn.Module) -> Tensor:
    """An input whose neighbouring values are much alike."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(layer, nn.Linear):
        base = torch.randn(40, 3, 1, generator=generator).expand(40, 3, 3).reshape(40, 9)
        return base + 0.3 * torch.randn(40, 9, generator=generator)
    smooth = torch.randn(3, 1, 12, 12, generator=generator).expand(3, 6, 12, 12)
    return nn.functional.avg_pool2d(smooth, 3, 1, 1) + 0.1 * torch.randn(3, 6, 12, 12, generator=generator)


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_are_weighted_sums_of_the_columns(name: str) -> None:
    layer = quantized(LAYERS[name])
    x = correlated(LAYERS[name])
    columns = layer.columns(x[:1])
    weight = layer.weight.reshape(columns.shape[0], -1, columns.shape[1])
    sums = (weight @ columns).flatten(0, 1)  # (outputs, positions)
    bias = 0 if layer.bias is None else layer.bias[:, None]
    expected = layer.compute(x[:1], layer.weight, layer.bias)
    expected = expected.movedim(1, 0).flatten(1) if expected.dim() == 4 else expected.T
    torch.testing.assert_close(sums + bias, expected)


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_the_layers_output_error_is_less_than_with_the_nearest_integers(name: str) -> None:
    layer = quantized(LAYERS[name])
    x = correlated(LAYERS[name])
    seen, weight = layer.input_quantizer(x), layer.weight.clone()
    wanted = layer.compute(x, weight, layer.bias)
    nearest = (layer.compute(seen, layer.weight_quantizer(weight), layer.bias) - wanted).norm()
    layer.weight = nn.Parameter(weight.clone())  # not that of the shared layer
    round_weights(layer, x, of_outputs(layer, wanted))
    torch.testing.assert_close(layer.weight_quantizer(layer.weight), layer.weight)
    assert (layer.compute(seen, layer.weight, layer.bias) - wanted).norm() < 0.97 * nearest


def test_inputs_that_do_not_correlate_mean_the_nearest_integers() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, step_size = torch.randn(2, 4, 5, generator=generator), torch.full((2, 4), 0.3)
    gram = torch.diag_embed(torch.rand(2, 5, generator=generator) + 0.5)
    expected = (weight / 0.3).round().clamp(-4, 3) * 0.3
    torch.testing.assert_close(compensated(weight, gram, step_size, -4, 3), expected)


def test_an_input_that_is_always_zero_does_no_harm() -> None:
    weight, step_size = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(0)), torch.full((1, 2), 0.3)
    rounded = compensated(weight, torch.zeros(1, 4, 4), step_size, -4, 3)
    torch.testing.assert_close(rounded, (weight / 0.3).round().clamp(-4, 3) * 0.3)


@pytest.mark.parametrize(("bits", "inputs"), [(8, 9), (4, MOST_INPUTS + 1)])
def test_what_gains_nothing_or_costs_too_much_stays(bits: int, inputs: int) -> None:
    layer = quantized(nn.Linear(inputs, 2), bits)
    before = layer.weight.clone()
    round_weights(layer, torch.rand(3, inputs), torch.rand(3, 2))
    assert torch.equal(layer.weight, before)


def test_products_are_summed_over_images() -> None:
    layer = quantized(LAYERS["linear"])
    x, sums = correlated(LAYERS["linear"]).reshape(4, 10, 9), torch.rand(40, 5)
    gram, cross = input_products(layer, x, sums)
    torch.testing.assert_close(gram[0], x.reshape(-1, 9).T @ x.reshape(-1, 9))
    torch.testing.assert_close(cross[0], sums.T @ x.reshape(-1, 9))


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_weights_that_see_what_is_wanted_stay_and_those_that_see_less_make_up_for_it(name: str) -> None:
    layer = quantized(LAYERS[name])
    x = correlated(LAYERS[name])
    groups, outputs = layer.columns(x[:1]).shape[0], layer.weight.shape[0]
    weight = layer.weight.reshape(groups, outputs // groups, -1)
    sums = of_outputs(layer, layer.compute(x, layer.weight, None))
    torch.testing.assert_close(fitted(weight, *input_products(layer, x, sums)), weight)
    weaker = fitted(weight, *input_products(layer, 0.9 * x, sums)).reshape(layer.weight.shape)
    left = (layer.compute(0.9 * x, weaker, None) - layer.compute(x, layer.weight, None)).norm()
    assert left < 0.8 * (0.1 * layer.compute(x, layer.weight, None)).norm()
