"""The estimate finds the layer that hurts, agrees with measured damage, and leaves the network as it was."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from detectors.protocol import BinaryOutputs, Detector, HeadOutputs, PlainOutputs
from qat_job.distillation import output_divergence
from qat_job.sensitivity.curvature import BOX_WEIGHT, compared, layer_errors, probe_of, rounding_error
from quantization.convert import in_float, make_student, quantized_layers
from schemas.qat_config import BitPolicy, Policy
from schemas.sensitivity import ErrorAtBits

PLANTED = "model.4.cv2.conv"


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    """Three of 64 px."""
    return list(torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)).split(1))


def errors_of(
    student: Detector, images: Sequence[Tensor], widths: Sequence[int] = (3,)
) -> dict[str, tuple[ErrorAtBits, ...]]:
    return layer_errors(student, images, widths, advance=lambda: None)


def plant_outliers(student: Detector, name: str) -> None:
    """In every output channel, one weight on a channel that is always zero: the function stays, the range grows."""
    layer = quantized_layers(student.network)[name]
    with torch.no_grad():
        layer.weight[:, 0] = 0
        layer.weight[:, 0, 0, 0] = 20 * layer.weight.abs().amax()
    layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].index_fill(1, torch.tensor([0]), 0.0),))


def test_a_layer_with_planted_outliers_ranks_first(teacher: Detector, images: list[Tensor]) -> None:
    student = make_student(teacher, BitPolicy())
    before = errors_of(student, images)
    assert max(before, key=lambda name: before[name][0].error) != PLANTED
    plant_outliers(student, PLANTED)
    after = errors_of(student, images)
    assert max(after, key=lambda name: after[name][0].error) == PLANTED


@pytest.mark.parametrize("policy", list(Policy))
def test_every_quantized_layer_has_an_error_at_every_width(
    teacher: Detector, images: list[Tensor], policy: Policy
) -> None:
    student = make_student(teacher, BitPolicy(policy=policy))
    seen: list[None] = []
    errors = layer_errors(student, images, (8, 2), lambda: seen.append(None))
    assert list(errors) == list(quantized_layers(student.network))
    assert all([each.weight_bits for each in layer] == [2, 8] for layer in errors.values())
    assert len(seen) == len(images)
    assert sum(layer[0].error for layer in errors.values()) > 10 * sum(layer[1].error for layer in errors.values())


def test_an_estimate_changes_no_weight_and_repeats_itself(teacher: Detector, images: list[Tensor]) -> None:
    student = make_student(teacher, BitPolicy())
    weights = {name: layer.weight.clone() for name, layer in quantized_layers(student.network).items()}
    learns = {name: layer.weight.requires_grad for name, layer in quantized_layers(student.network).items()}
    assert errors_of(student, images) == errors_of(student, images)
    for name, layer in quantized_layers(student.network).items():
        assert torch.equal(weights[name], layer.weight)
        assert layer.weight.requires_grad == learns[name] and layer.weight.grad is None


def test_estimates_rank_layers_as_the_measured_divergence_does(teacher: Detector, images: list[Tensor]) -> None:
    """Each layer is rounded by itself and the divergence of the outputs is measured: that is what is estimated."""
    student = make_student(teacher, BitPolicy())
    estimated = {name: each[0].error for name, each in errors_of(student, images, (4,)).items()}
    measured = {name: measured_error(student, images, name, 4) for name in estimated}
    ranks = [np.argsort(np.argsort(list(each.values()))) for each in (estimated, measured)]
    assert np.corrcoef(*ranks)[0, 1] > 0.85
    assert 0.5 < sum(estimated.values()) / sum(measured.values()) < 2


@torch.no_grad()
def measured_error(student: Detector, images: Sequence[Tensor], name: str, bits: int) -> float:
    layer = quantized_layers(student.network)[name]
    change = rounding_error(layer, bits)
    total = 0.0
    with in_float(student.network):
        for image in images:
            expected = student.head_outputs(image)
            layer.weight += change
            found = student.head_outputs(image)
            layer.weight -= change
            total += float(output_divergence(found, expected, temperature=1.0, box_weight=BOX_WEIGHT)) / len(images)
    return total


def dense(generator: torch.Generator) -> HeadOutputs:
    """Independent classes, boxes as distributions, and further yes-or-no outputs."""
    masks = BinaryOutputs(torch.randn(1, 3, 4, generator=generator), torch.rand(1, 4, generator=generator))
    classes, boxes = torch.randn(1, 2, 4, generator=generator), torch.randn(1, 4, 3, 4, generator=generator)
    return HeadOutputs((classes,), (boxes,), raw=None, binary=(masks,))


def exclusive(generator: torch.Generator) -> HeadOutputs:
    """One distribution over classes for each region, background first."""
    classes, boxes = torch.randn(1, 4, 5, generator=generator), torch.randn(1, 4, 3, 5, generator=generator)
    return HeadOutputs((classes,), (boxes,), raw=None, categorical=(True,))


@pytest.mark.parametrize("make", [dense, exclusive])
def test_probes_have_the_hessian_of_the_divergence_as_their_second_moment(
    make: Callable[[torch.Generator], HeadOutputs],
) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = make(generator)
    parts = [*outputs.class_logits, *outputs.box_logits, *(each.logits for each in outputs.binary)]
    sizes, shapes = [part.numel() for part in parts], [part.shape for part in parts]

    def divergence(flat: Tensor) -> Tensor:
        classes, boxes, *more = (each.reshape(s) for each, s in zip(flat.split(sizes), shapes, strict=True))
        binary = tuple(BinaryOutputs(each, outputs.binary[0].weights) for each in more)
        moved = HeadOutputs((classes,), (boxes,), None, outputs.categorical, binary)
        return output_divergence(moved, outputs, temperature=1.0, box_weight=BOX_WEIGHT)

    point = torch.cat([part.flatten() for part in parts])
    hessian = torch.autograd.functional.hessian(divergence, point)
    drawn = torch.stack([torch.cat([part.flatten() for part in probe_of(outputs, generator)]) for _ in range(20_000)])
    moment = drawn.T @ drawn / len(drawn)
    assert torch.allclose(moment, hessian, atol=0.03 * float(hessian.abs().max()))


def test_plain_outputs_are_probed_by_the_weights_they_bring() -> None:
    """Keypoints and angles: without their probes, layers that only these depend on would seem to cost nothing."""
    generator = torch.Generator().manual_seed(0)
    plain = PlainOutputs(torch.randn(1, 3, 4, generator=generator), torch.tensor([[0.0, 1.0, 2.0, 5.0]]))
    outputs = HeadOutputs((torch.randn(1, 2, 4),), (torch.randn(1, 4, 1, 4),), raw=None, plain=(plain,))
    probe = probe_of(outputs, generator)
    assert [each.shape for each in probe] == [each.shape for each in compared(outputs)]
    assert torch.allclose(probe[-1].square(), (BOX_WEIGHT / 3 * plain.weights / 8).expand(1, 3, 4))
