"""Correction brings layer outputs back to the float network's and leaves the integers alone."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from detectors.protocol import Detector
from quantization.calibrate import calibrate
from quantization.convert import in_float, make_student, quantized_layers
from quantization.correction import Correction
from quantization.fitting import fit_to_float
from quantization.layers import QuantizedLayer
from quantization.positions import of_outputs
from schemas.qat_config import BitPolicy, Policy


def calibrated_student(teacher: Detector, images: Tensor, policy: Policy) -> Detector:
    """Our own: it is changed."""
    student = make_student(teacher, BitPolicy(policy=policy, weight_bits=3))
    calibrate(student.network, lambda: images.split(2), student.head_outputs)
    return student


def layer_outputs(student: Detector, images: Tensor) -> dict[str, Tensor]:
    """Of every quantized layer, `(positions, channels)`."""
    found: dict[str, Tensor] = {}

    def keep(name: str, layer: QuantizedLayer) -> torch.utils.hooks.RemovableHandle:
        return layer.register_forward_hook(
            lambda _module, _inputs, output: found.__setitem__(name, of_outputs(layer, output))
        )

    handles = [keep(name, layer) for name, layer in quantized_layers(student.network).items()]
    with torch.no_grad():
        student.head_outputs(images)
    for handle in handles:
        handle.remove()
    return found


def largest_shift(found: Tensor, wanted: Tensor) -> float:
    """Of a channel's mean, in standard deviations of the layer's output."""
    return float((found.mean(0) - wanted.mean(0)).abs().max() / wanted.std())


def integers(student: Detector) -> dict[str, Tensor]:
    return {
        name: (layer.weight / layer.weight_quantizer.step_size.reshape(-1, *[1] * (layer.weight.dim() - 1))).detach()
        for name, layer in quantized_layers(student.network).items()
    }


@pytest.fixture(scope="module")
def before(teacher: Detector, images: Tensor) -> Detector:
    return calibrated_student(teacher, images, Policy.DEPLOY)


@pytest.fixture(scope="module")
def after(before: Detector, images: Tensor) -> Detector:
    student = deepcopy(before)
    fit_to_float(student, images, compensate=False)
    return student


def test_the_fit_finds_a_known_scale_and_shift() -> None:
    wanted = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    scale, shift = torch.tensor([0.8, 1.0, 1.25]), torch.tensor([1.0, -2.0, 0.0])
    found = (wanted - shift) / scale
    correction = Correction.between(wanted, found)
    torch.testing.assert_close(correction.scale, scale)
    torch.testing.assert_close((found - correction.mean) * correction.scale + correction.target, wanted)


def test_a_channel_that_does_not_vary_is_shifted_alone() -> None:
    correction = Correction.between(torch.full((10, 1), 3.0), torch.full((10, 1), 1.0))
    assert float(correction.scale) == 1
    assert float(correction.target - correction.mean) == 2


def test_mean_outputs_become_those_of_the_float_layers(before: Detector, after: Detector, images: Tensor) -> None:
    with in_float(before.network):
        wanted = layer_outputs(before, images)
    found, uncorrected = layer_outputs(after, images), layer_outputs(before, images)
    for name, expected in wanted.items():
        assert largest_shift(found[name], expected) < 0.05, name
    assert max(largest_shift(uncorrected[name], expected) for name, expected in wanted.items()) > 0.1


def test_every_layer_is_nearer_to_float_on_average(before: Detector, after: Detector, images: Tensor) -> None:
    with in_float(before.network):
        wanted = layer_outputs(before, images)
    errors = [
        [float((outputs[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted]
        for outputs in (layer_outputs(before, images), layer_outputs(after, images))
    ]
    assert sum(errors[1]) < 0.9 * sum(errors[0])


def test_integers_stay_what_they_are(before: Detector, after: Detector) -> None:
    old, new = integers(before), integers(after)
    for name, values in old.items():
        torch.testing.assert_close(new[name], values, rtol=1e-4, atol=1e-4)


def test_one_step_size_for_all_channels_means_no_scale(teacher: Detector, images: Tensor) -> None:
    student = calibrated_student(teacher, images, Policy.PAPER)
    weights = {name: layer.weight.clone() for name, layer in quantized_layers(student.network).items()}
    fit_to_float(student, images, compensate=False)
    for name, layer in quantized_layers(student.network).items():
        assert torch.equal(layer.weight, weights[name])


def test_nothing_is_left_on_the_network(after: Detector) -> None:
    for layer in quantized_layers(after.network).values():
        assert layer.enabled
        assert not layer._forward_hooks
