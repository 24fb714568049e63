"""Weights whose integers stay while step sizes learn."""

import pytest
import torch
from torch import Tensor

from detectors.protocol import Detector
from quantization.calibrate import calibrate, weight_step_sizes
from quantization.convert import make_student, quantized_layers
from quantization.fake_quantize import FakeQuantizer
from quantization.fixed_rounding import FixedRounding, fix_rounding, release_rounding
from quantization.plan import QuantizerSpec
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


def test_a_student_computes_the_same_before_while_and_after(teacher: Detector, images: Tensor) -> None:
    student = make_student(teacher, BitPolicy(weight_bits=4))
    calibrate(student.network, lambda: [images], student.head_outputs)
    names = set(student.network.state_dict())
    with torch.no_grad():
        before = student.decoded(images)
        fix_rounding(student.network)
        torch.testing.assert_close(student.decoded(images), before)
        release_rounding(student.network)
        assert torch.equal(student.decoded(images), before)
    assert set(student.network.state_dict()) == names
    assert all(type(layer.weight_quantizer) is FakeQuantizer for layer in quantized_layers(student.network).values())


def test_what_was_learned_stays_when_rounding_is_released(teacher: Detector, images: Tensor) -> None:
    student = make_student(teacher, BitPolicy(weight_bits=4))
    calibrate(student.network, lambda: [images], student.head_outputs)
    fix_rounding(student.network)
    with torch.no_grad():
        for layer in quantized_layers(student.network).values():
            layer.weight_quantizer.step_size.mul_(1.1)
        learned = student.decoded(images)
        release_rounding(student.network)
        torch.testing.assert_close(student.decoded(images), learned)
