"""Initial step sizes are near those of least squared error, for any data."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.protocol import Detector
from quantization.calibrate import HistogramObserver, activation_step_size, calibrate, weight_step_sizes
from quantization.convert import quantized_layers
from quantization.fake_quantize import FakeQuantizer
from quantization.layers import QuantizedLinear
from quantization.plan import LayerPlan, QuantizerSpec
from schemas.qat_config import BitPolicy, Policy


def squared_error(x: Tensor, step: Tensor, zero_point: Tensor | float, spec: QuantizerSpec) -> Tensor:
    """Sum over the last dimension."""
    lowest, highest = spec.range
    q = ((x / step).round() + zero_point).clamp(lowest, highest)
    return ((q - zero_point) * step - x).square().sum(dim=-1)


def observed(*batches: Tensor) -> HistogramObserver:
    observer = HistogramObserver()
    for _ in range(2):
        for batch in batches:
            observer.observe(batch)
        observer.finish_pass()
    return observer


@given(st.integers(0, 2**31), st.integers(2, 8), st.sampled_from(["per_tensor", "per_channel"]))
def test_weight_step_sizes_are_never_worse_than_the_largest_weight(seed: int, bits: int, granularity: str) -> None:
    spec = QuantizerSpec(bits, granularity, "symmetric")  # type: ignore[arg-type]
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(seed)) ** 3
    rows = weight.flatten(1) if granularity == "per_channel" else weight.reshape(1, -1)
    step = weight_step_sizes(weight, spec)
    assert step.shape == (len(rows),)
    largest = rows.abs().amax(dim=1) / spec.range[1]
    chosen, simple = (squared_error(rows, s[:, None], 0.0, spec) for s in (step, largest))
    assert bool((chosen <= simple * (1 + 1e-5)).all())


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("seed", range(3))
def test_weight_step_sizes_are_near_the_best_of_all(bits: int, seed: int) -> None:
    spec = QuantizerSpec(bits, "per_channel", "symmetric")
    weight = torch.randn(3, 600, generator=torch.Generator().manual_seed(seed))
    chosen = squared_error(weight, weight_step_sizes(weight, spec)[:, None], 0.0, spec)
    for row, error in zip(weight, chosen, strict=True):
        candidates = torch.linspace(0.005, 1.2, 600)[:, None] * row.abs().max() / spec.range[1]
        best = squared_error(row[None], candidates, 0.0, spec).min()
        assert error <= best * 1.1


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("kind", ["normal", "silu", "uniform", "outliers", "positive", "far"])
def test_activation_step_sizes_are_near_the_best_of_all(bits: int, scheme: str, kind: str) -> None:
    spec = QuantizerSpec(bits, "per_tensor", scheme)  # type: ignore[arg-type]
    x = torch.randn(2000, generator=torch.Generator().manual_seed(bits), dtype=torch.float64)
    match kind:
        case "silu":
            x = F.silu(2 * x)
        case "uniform":
            x = torch.rand(2000, generator=torch.Generator().manual_seed(bits), dtype=torch.float64) - 0.2
        case "outliers":
            x[:10] *= 20
        case "positive":
            x = x.abs()
        case "far":
            x = x.abs() + 3
    step, zero_point = activation_step_size(observed(x.float()), spec)
    error = squared_error(x, step.double(), zero_point.double(), spec)

    lowest, highest = spec.range
    assert lowest <= float(zero_point) <= highest
    assert float(zero_point) == round(float(zero_point))
    candidates = torch.linspace(0.005, 1.0, 400, dtype=torch.float64) * (x.abs().max() + x.abs().max() * spec.affine)
    steps = candidates[:, None] / highest
    zero_points = range(lowest, highest + 1, max(1, 2 ** (bits - 5))) if spec.affine else [0]
    best = min(float(squared_error(x[None], steps, float(z), spec).min()) for z in zero_points)
    assert float(error) <= best * 1.25


def test_what_batches_the_values_came_in_does_not_matter() -> None:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    spec = QuantizerSpec(4, "per_tensor", "affine")
    whole, split = (activation_step_size(observer, spec) for observer in (observed(x), observed(*x.split(5))))
    assert whole == split


def test_the_histogram_counts_every_value() -> None:
    x = torch.randn(1000)
    observer = observed(x)
    assert observer.counts.sum() == 1000
    assert float((observer.counts * observer.centres()).sum() / 1000) == pytest.approx(float(x.mean()), abs=0.01)


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_a_channel_of_zeros_gets_a_usable_step_size(granularity: str) -> None:
    spec = QuantizerSpec(4, granularity, "symmetric")  # type: ignore[arg-type]
    weight = torch.zeros(3, 5)
    if granularity == "per_channel":
        weight[1] = torch.linspace(-1, 1, 5)
    step = weight_step_sizes(weight, spec)
    assert bool((step > 0).all())
    quantizer = FakeQuantizer(spec, len(step))
    quantizer.initialise(step)
    assert torch.equal(quantizer(weight)[0], torch.zeros(5))


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("value", [0.0, 1e-12, 0.5, -3.0, 100.0, 1e5, -1e-7])
def test_a_constant_activation_stays_what_it_is(scheme: str, value: float) -> None:
    spec = QuantizerSpec(8, "per_tensor", scheme)  # type: ignore[arg-type]
    x = torch.full((10,), value)
    step, zero_point = activation_step_size(observed(x), spec)
    assert float(step) > 0
    quantizer = FakeQuantizer(spec)
    quantizer.initialise(step, zero_point)
    torch.testing.assert_close(quantizer(x), x, rtol=0.01, atol=1e-5)


def test_calibration_quantizes_a_linear_network_well() -> None:
    plan = LayerPlan(QuantizerSpec(8, "per_channel", "symmetric"), QuantizerSpec(8, "per_tensor", "affine"))
    torch.manual_seed(0)
    first, last = nn.Linear(16, 16), nn.Linear(16, 4)
    plain = nn.Sequential(first, nn.SiLU(), last)
    student = nn.Sequential(QuantizedLinear(first, plan), nn.SiLU(), QuantizedLinear(last, plan))
    x = torch.randn(64, 16)
    calibrate(student, lambda: x.split(16), student)
    assert (student(x) - plain(x)).norm() / plain(x).norm() < 0.02


@pytest.mark.parametrize("policy", list(Policy))
def test_eight_bits_are_close_to_float_and_fewer_bits_are_less_so(
    calibrated: Callable[[BitPolicy], Detector], teacher: Detector, images: Tensor, policy: Policy
) -> None:
    expected = teacher.head_outputs(images)
    errors = []
    for bits in (8, 6, 4, 3):
        student = calibrated(BitPolicy(policy=policy, weight_bits=bits, activation_bits=bits))
        with torch.no_grad():
            outputs = student.head_outputs(images)
        assert bool(outputs.class_logits[0].isfinite().all())
        assert bool(outputs.box_logits[0].isfinite().all())
        difference = outputs.class_logits[0] - expected.class_logits[0]
        errors.append(float(difference.norm() / expected.class_logits[0].norm()))
    assert errors == sorted(errors)
    assert errors[0] < 0.05


def test_calibration_leaves_weights_and_hooks_as_they_were(
    calibrated: Callable[[BitPolicy], Detector], teacher: Detector
) -> None:
    student = calibrated(BitPolicy(policy=Policy.PAPER))
    for name, layer in quantized_layers(student.network).items():
        assert torch.equal(layer.weight, teacher.network.get_submodule(name).weight)  # type: ignore[arg-type]
        assert not layer._forward_pre_hooks
        assert layer.enabled
