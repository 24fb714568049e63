"""Fake quantization computes what LSQ and LSQ+ write down, forward and backward.

The reference is plain float64 arithmetic. Gradients of rounding do not exist, so the backward pass is checked against
finite differences of the straight-through surrogate: rounding residuals and the clipping decision frozen.
"""

import pytest
import torch
from torch import Tensor

from quantization.fake_quantize import FakeQuantizer
from quantization.plan import QuantizerSpec

BITS = range(2, 9)
SPECS = [
    spec
    for bits in BITS
    for spec in (
        QuantizerSpec(bits, "per_tensor", "symmetric"),
        QuantizerSpec(bits, "per_tensor", "affine"),
        QuantizerSpec(bits, "per_channel", "symmetric"),
    )
]
CHANNELS = 6


def name(spec: QuantizerSpec) -> str:
    return f"{spec.bits}-{spec.granularity}-{spec.scheme}"


def quantizer_and_data(spec: QuantizerSpec, clip: float = 0.7) -> tuple[FakeQuantizer, Tensor]:
    """A quantizer whose range covers `clip` of the data's, so that both ends clip."""
    generator = torch.Generator().manual_seed(spec.bits)
    x = torch.randn(CHANNELS, 5, 4, 4, generator=generator) * torch.linspace(0.5, 2, CHANNELS)[:, None, None, None]
    lowest, highest = spec.range
    channels = CHANNELS if spec.granularity == "per_channel" else 1
    quantizer = FakeQuantizer(spec, channels)
    if spec.affine:
        step = clip * (x.max() - x.min()) / (highest - lowest)
        quantizer.initialise(step.reshape(1), (lowest - clip * x.min() / step).round().reshape(1))
    else:
        quantizer.initialise(clip * x.reshape(channels, -1).abs().amax(dim=1) / -lowest)
    return quantizer, x


def wide(values: Tensor, x: Tensor) -> Tensor:
    """Per-channel values as float64 that multiply `x`."""
    return values.detach().double().reshape(-1, *[1] * (x.dim() - 1))


def reference(x: Tensor, quantizer: FakeQuantizer) -> Tensor:
    lowest, highest = quantizer.spec.range
    s, z = wide(quantizer.step_size, x), wide(quantizer.zero_point, x).round()
    return ((x.double() / s).round() + z).clamp(lowest, highest).sub(z) * s


def surrogate(x: Tensor, s: Tensor, z: Tensor, quantizer: FakeQuantizer, at: Tensor) -> Tensor:
    """The straight-through function around the quantizer's own parameters and the input `at`, in float64."""
    lowest, highest = quantizer.spec.range
    s0, z0 = wide(quantizer.step_size, x), wide(quantizer.zero_point, x)
    integer = (at.double() / s0).round() + z0
    residual = integer - (at.double() / s0 + z0)
    inside = (integer >= lowest) & (integer <= highest)
    q = torch.where(inside, x / s + z + residual, integer.clamp(lowest, highest))
    return (q - z) * s


@pytest.mark.parametrize("spec", SPECS, ids=name)
def test_the_forward_pass_is_the_formula(spec: QuantizerSpec) -> None:
    quantizer, x = quantizer_and_data(spec)
    expected = reference(x, quantizer)
    error = (quantizer(x).double() - expected).norm() / expected.norm()
    assert error < 1e-6
    assert (expected - x.double()).norm() / x.norm() > 1e-3, "quantization must do something here"


@pytest.mark.parametrize("spec", SPECS, ids=name)
def test_values_lie_on_the_grid(spec: QuantizerSpec) -> None:
    quantizer, x = quantizer_and_data(spec)
    lowest, highest = spec.range
    integers = quantizer(x).double() / wide(quantizer.step_size, x) + wide(quantizer.zero_point, x)
    torch.testing.assert_close(integers, integers.round(), atol=1e-3, rtol=0)
    assert lowest <= int(integers.round().min()) < int(integers.round().max()) <= highest
    assert int(integers.round().min()) == lowest or int(integers.round().max()) == highest
    for rows in integers.round().flatten(1) if spec.granularity == "per_channel" else integers.round().reshape(1, -1):
        assert len(rows.unique()) <= 2**spec.bits


@pytest.mark.parametrize("spec", SPECS, ids=name)
def test_a_second_pass_changes_nothing(spec: QuantizerSpec) -> None:
    quantizer, x = quantizer_and_data(spec)
    once = quantizer(x)
    torch.testing.assert_close(quantizer(once), once)


@pytest.mark.parametrize("spec", SPECS, ids=name)
def test_zero_is_represented_exactly(spec: QuantizerSpec) -> None:
    quantizer, x = quantizer_and_data(spec)
    assert torch.equal(quantizer(torch.zeros_like(x)), torch.zeros_like(x))


@pytest.mark.parametrize("spec", SPECS, ids=name)
def test_gradients_are_those_of_the_straight_through_surrogate(spec: QuantizerSpec) -> None:
    quantizer, x = quantizer_and_data(spec)
    highest = spec.range[1]
    s0, z0 = wide(quantizer.step_size, x), wide(quantizer.zero_point, x)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    moving = x.clone().requires_grad_()
    (quantizer(moving) * weights).sum().backward()
    scale = (x.numel() / s0.numel() * highest) ** -0.5

    def numeric(function: object, count: int, epsilon: float = 1e-6) -> Tensor:
        """Central differences of the weighted sum in each of `count` parameters."""
        slopes = []
        for index in range(count):
            shift = torch.zeros(count, dtype=torch.float64)
            shift[index] = epsilon
            step = shift.reshape(-1, *[1] * (x.dim() - 1))
            above, below = (function(sign * step) for sign in (1, -1))  # type: ignore[operator]
            slopes.append(((above - below) * weights.double()).sum() / (2 * epsilon))
        return torch.stack(slopes)

    step_slope = numeric(lambda d: surrogate(x.double(), s0 + d, z0, quantizer, x), s0.numel())
    assert quantizer.step_size.grad is not None
    torch.testing.assert_close(quantizer.step_size.grad.double(), step_slope * scale, rtol=1e-3, atol=1e-5)
    if spec.affine:
        zero_slope = numeric(lambda d: surrogate(x.double(), s0, z0 + d, quantizer, x), 1)
        assert quantizer.zero_point.grad is not None
        torch.testing.assert_close(quantizer.zero_point.grad.double(), zero_slope * scale, rtol=1e-3, atol=1e-5)
    else:
        assert quantizer.zero_point.grad is None

    at = x.double().requires_grad_()
    (input_slope,) = torch.autograd.grad((surrogate(at, s0, z0, quantizer, x) * weights).sum(), at)
    assert moving.grad is not None
    torch.testing.assert_close(moving.grad.double(), input_slope)
    share = float((moving.grad != 0).double().mean())
    assert 0.3 < share < 1, "some inputs must lie inside the range and some outside"


def test_the_step_size_gradient_does_not_grow_with_the_tensor() -> None:
    spec = QuantizerSpec(4, "per_tensor", "symmetric")
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    gradients = []
    for repeats in (1, 16):
        quantizer = FakeQuantizer(spec)
        quantizer.initialise(torch.tensor([0.2]))
        quantizer(x.repeat(repeats)).sum().backward()
        assert quantizer.step_size.grad is not None
        gradients.append(float(quantizer.step_size.grad))
    # 16 times the sum, a quarter of the factor: 1 / sqrt(N qmax).
    assert gradients[1] == pytest.approx(4 * gradients[0], rel=1e-3)


@pytest.mark.parametrize("step", [0.0, -1.0])
def test_a_step_size_that_learning_drove_to_zero_or_below_stays_usable(step: float) -> None:
    for spec in (QuantizerSpec(4, "per_tensor", "affine"), QuantizerSpec(4, "per_channel", "symmetric")):
        quantizer = FakeQuantizer(spec, 3 if spec.granularity == "per_channel" else 1)
        quantizer.initialise(torch.full_like(quantizer.step_size, step))
        assert bool(quantizer(torch.randn(3, 4)).isfinite().all())


def test_a_learned_zero_point_acts_as_an_integer_of_the_range() -> None:
    quantizer = FakeQuantizer(QuantizerSpec(4, "per_tensor", "affine"))
    x = torch.linspace(-2, 2, 101)
    outputs = []
    for zero_point in (7.0, 7.3, 6.6):
        quantizer.initialise(torch.tensor([0.2]), torch.tensor([zero_point]))
        outputs.append(quantizer(x))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize(("zero_point", "nearest"), [(-3.0, 0.0), (99.0, 15.0)])
def test_a_zero_point_that_learning_drove_out_of_the_range_acts_as_the_nearest_in_it(
    zero_point: float, nearest: float
) -> None:
    quantizer = FakeQuantizer(QuantizerSpec(4, "per_tensor", "affine"))
    x = torch.linspace(-2, 2, 101)
    quantizer.initialise(torch.tensor([0.2]), torch.tensor([zero_point]))
    outside = quantizer(x)
    quantizer.initialise(torch.tensor([0.2]), torch.tensor([nearest]))
    assert torch.equal(outside, quantizer(x))


@pytest.mark.parametrize("spec", [SPECS[0], SPECS[1], SPECS[2], SPECS[-3], SPECS[-2], SPECS[-1]], ids=name)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_on_a_whole_activation_all_is_near_plain_float64(spec: QuantizerSpec, layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(spec.bits)
    channels = 16 if spec.granularity == "per_channel" else 1
    x = torch.randn(4, 16, 80, 80, generator=generator).mul_(1.5)
    x = (x if channels > 1 else torch.nn.functional.silu(x).transpose(0, 1)).reshape(16, 4, 80, 80)
    x = x.contiguous(memory_format=layout).requires_grad_()
    quantizer = FakeQuantizer(spec, channels)
    lowest, highest = spec.range
    quantizer.initialise(torch.full((channels,), 5.0 / (highest - lowest)), torch.full((channels,), 1.0 * spec.affine))
    # Not around 0: of a sum that cancels out, rounding would be a large share, on some processors more than on others.
    slope = torch.randn(x.shape, generator=generator).add(0.5).contiguous(memory_format=layout)
    quantized = quantizer(x)
    quantized.backward(slope)

    s, z = wide(quantizer.step_size, x), wide(quantizer.zero_point, x)
    integer = (x.detach().double() / s).round() + z
    inside = (integer >= lowest) & (integer <= highest)
    expected = (integer.clamp(lowest, highest) - z) * s
    to_step = slope * torch.where(inside, expected - x.detach().double(), expected) / s
    scale = (x.numel() / channels * highest) ** -0.5
    rows = to_step.flatten(1).sum(dim=1) if channels > 1 else to_step.sum().reshape(1)

    def away(mine: Tensor | None, plain: Tensor) -> float:
        assert mine is not None
        return float((mine.detach().double() - plain).norm() / plain.norm())

    assert away(quantized, expected) < 1e-4  # an input halfway between two steps may go to the other one
    assert away(x.grad, slope * inside) < 1e-6
    assert away(quantizer.step_size.grad, rows * scale) < 1e-3
    if spec.affine:
        assert away(quantizer.zero_point.grad, -(s * slope * ~inside).sum().reshape(1) * scale) < 1e-3


def test_both_kernels_agree() -> None:
    x = torch.randn(8, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    for spec in (QuantizerSpec(4, "per_tensor", "affine"), QuantizerSpec(4, "per_channel", "symmetric")):
        quantizer = FakeQuantizer(spec, 8 if spec.granularity == "per_channel" else 1)
        quantizer.initialise(torch.full_like(quantizer.step_size, 0.1), torch.full_like(quantizer.zero_point, 5.0))
        lowest, highest = spec.range
        fused = (
            torch._fake_quantize_learnable_per_tensor_affine(
                x, quantizer.step_size, quantizer.zero_point, lowest, highest, 1.0
            )
            if spec.affine
            else torch._fake_quantize_learnable_per_channel_affine(
                x, quantizer.step_size, torch.zeros(8), 0, lowest, highest, 1.0
            )
        )
        assert torch.equal(quantizer(x), fused)
