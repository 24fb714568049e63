"""Weights whose integers stay while step sizes learn."""

import copy
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from detectors.protocol import Detector
from quantization.calibrate import calibrate, weight_step_sizes
from quantization.convert import activations_in_float, make_student, quantized_layers
from quantization.fake_quantize import FakeQuantizer
from quantization.fixed_rounding import FixedRounding
from quantization.layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear
from quantization.plan import LayerPlan, QuantizerSpec
from schemas.qat_config import BitPolicy

WEIGHT = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(0))


def quantizer(granularity: str) -> FakeQuantizer:
    spec = QuantizerSpec(4, granularity, "symmetric")  # type: ignore[arg-type]
    steps = weight_step_sizes(WEIGHT, spec)
    made = FakeQuantizer(spec, steps.numel())
    made.initialise(steps)
    return made


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_integers_stay_whatever_the_step_sizes_are(granularity: str) -> None:
    plain = quantizer(granularity)
    fixed = FixedRounding(plain, WEIGHT)
    assert torch.equal(fixed(WEIGHT), plain(WEIGHT))
    fixed.initialise(1.3 * plain.step_size.detach())
    torch.testing.assert_close(fixed(WEIGHT), 1.3 * plain(WEIGHT))


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_the_gradient_of_a_step_size_is_that_of_a_scale(granularity: str) -> None:
    plain = quantizer(granularity)
    fixed = FixedRounding(plain, WEIGHT)
    upstream = torch.randn(WEIGHT.shape, generator=torch.Generator().manual_seed(1))
    (fixed(WEIGHT) * upstream).sum().backward()
    rows = (upstream * fixed.integers).flatten(1).sum(dim=1)
    assert fixed.step_size.grad is not None
    torch.testing.assert_close(
        fixed.step_size.grad, rows if granularity == "per_channel" else rows.sum(dim=0, keepdim=True)
    )


def for_each(student: Detector, change: Callable[[QuantizedLayer], None]) -> None:
    for layer in quantized_layers(student.network).values():
        change(layer)


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 7)),
        (nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 9, 7)),
        (nn.Linear(4, 6), (2, 5, 4)),
        (nn.Linear(4, 6, bias=False), (2, 4)),
    ],
    ids=["convolution", "grouped, without bias", "linear", "linear, without bias"],
)
def test_scaled_outputs_are_those_of_scaled_weights_with_their_gradients(
    layer: nn.Conv2d | nn.Linear, shape: tuple[int, ...], granularity: Literal["per_channel", "per_tensor"]
) -> None:
    """The layer computes with integers and scales what comes out; a weight of step sizes times integers is the same."""
    plan = LayerPlan(QuantizerSpec(4, granularity, "symmetric"), QuantizerSpec(8, "per_tensor", "affine"))
    kind = QuantizedConv2d if isinstance(layer, nn.Conv2d) else QuantizedLinear
    quantized = kind(copy.deepcopy(layer), plan)  # type: ignore[arg-type]
    quantized.weight_quantizer.initialise(weight_step_sizes(quantized.weight.detach(), plan.weight))
    quantized.input_quantizer.initialise(torch.tensor(0.03), torch.tensor(128.0))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2)).requires_grad_()
    quantized.fix_rounding()
    quantizer = quantized.weight_quantizer
    found = quantized(x)
    wanted = quantized.compute(quantized.input_quantizer(x), quantizer(quantized.weight), quantized.bias)
    torch.testing.assert_close(found, wanted)
    upstream = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(3))
    learned = [x, quantizer.step_size, *([] if quantized.bias is None else [quantized.bias])]
    gradients = [torch.autograd.grad((output * upstream).sum(), learned) for output in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_a_student_computes_the_same_before_while_and_after(teacher: Detector, images: Tensor) -> None:
    student = make_student(teacher, BitPolicy(weight_bits=4))
    calibrate(student.network, lambda: [images], student.head_outputs)
    names = set(student.network.state_dict())
    with torch.no_grad():
        before = student.decoded(images)
        with activations_in_float(student.network):  # which would turn sums in another order into other integers
            weights_alone = student.decoded(images)
            for_each(student, QuantizedLayer.fix_rounding)
            torch.testing.assert_close(student.decoded(images), weights_alone, rtol=1e-4, atol=1e-3)
        for_each(student, QuantizedLayer.release_rounding)
        assert torch.equal(student.decoded(images), before)
    assert set(student.network.state_dict()) == names
    assert all(type(layer.weight_quantizer) is FakeQuantizer for layer in quantized_layers(student.network).values())


def test_what_was_learned_stays_when_rounding_is_released(teacher: Detector, images: Tensor) -> None:
    student = make_student(teacher, BitPolicy(weight_bits=4))
    calibrate(student.network, lambda: [images], student.head_outputs)
    for_each(student, QuantizedLayer.fix_rounding)
    with torch.no_grad(), activations_in_float(student.network):
        before = student.decoded(images)
        for layer in quantized_layers(student.network).values():
            layer.weight_quantizer.step_size.mul_(1.1)
        learned = student.decoded(images)
        for_each(student, QuantizedLayer.release_rounding)
        torch.testing.assert_close(student.decoded(images), learned, rtol=1e-4, atol=1e-3)
    assert (learned - before).abs().mean() > 0.1
