"""The scan finds the layer that hurts, leaves the network as it was, and says the same thing twice."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from detectors.protocol import Detector
from qat_job.distillation import output_divergence
from qat_job.sensitivity.scan import BOX_WEIGHT, quantized_weight, scan_layers
from quantization.convert import in_float, make_student, quantized_layers
from schemas.qat_config import BitPolicy, Policy
from schemas.sensitivity import ErrorAtBits

PLANTED = "model.4.cv2.conv"


@pytest.fixture(scope="module")
def batches() -> list[Tensor]:
    """Two batches of unequal size, 64 px."""
    return list(torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)).split(2))


def scan(
    student: Detector, batches: Sequence[Tensor], candidates: Sequence[int] = (3,)
) -> dict[str, tuple[ErrorAtBits, ...]]:
    return scan_layers(student, batches, candidates, advance=lambda: None)


def plant_outliers(student: Detector, name: str) -> None:
    """In every output channel, one weight on a channel that is always zero: the function stays, the range grows."""
    layer = quantized_layers(student.network)[name]
    with torch.no_grad():
        layer.weight[:, 0] = 0
        layer.weight[:, 0, 0, 0] = 20 * layer.weight.abs().amax()
    layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].index_fill(1, torch.tensor([0]), 0.0),))


def test_a_layer_with_planted_outliers_ranks_first(teacher: Detector, batches: list[Tensor]) -> None:
    student = make_student(teacher, BitPolicy())
    before = scan(student, batches)
    assert max(before, key=lambda name: before[name][0].error) != PLANTED
    plant_outliers(student, PLANTED)
    after = scan(student, batches)
    assert max(after, key=lambda name: after[name][0].error) == PLANTED


@pytest.mark.parametrize("policy", list(Policy))
def test_every_quantized_layer_is_measured_at_every_candidate(
    teacher: Detector, batches: list[Tensor], policy: Policy
) -> None:
    student = make_student(teacher, BitPolicy(policy=policy))
    calls: list[None] = []
    errors = scan_layers(student, batches, (8, 2), lambda: calls.append(None))
    assert list(errors) == list(quantized_layers(student.network))
    assert all([each.weight_bits for each in layer] == [2, 8] for layer in errors.values())
    assert len(calls) == 2 * len(errors) * len(batches)
    assert sum(layer[0].error for layer in errors.values()) > 10 * sum(layer[1].error for layer in errors.values())


def test_a_scan_changes_no_weight_and_repeats_itself(teacher: Detector, batches: list[Tensor]) -> None:
    student = make_student(teacher, BitPolicy())
    weights = {name: layer.weight.clone() for name, layer in quantized_layers(student.network).items()}
    first, second = scan(student, batches), scan(student, batches)
    assert first == second
    assert all(torch.equal(weights[name], layer.weight) for name, layer in quantized_layers(student.network).items())


@pytest.mark.parametrize("name", ["model.0.conv", PLANTED, "model.23.cv2.0.2"])
def test_the_error_is_that_of_a_whole_forward_pass_over_all_images(
    teacher: Detector, batches: list[Tensor], name: str
) -> None:
    student = make_student(teacher, BitPolicy())
    with torch.no_grad(), in_float(student.network):
        images = torch.cat(batches)
        expected = student.head_outputs(images)
        with quantized_weight(quantized_layers(student.network)[name], 3):
            error = float(
                output_divergence(student.head_outputs(images), expected, temperature=1.0, box_weight=BOX_WEIGHT)
            )
    assert scan(student, batches)[name][0].error == pytest.approx(error, rel=1e-3)


def test_after_a_scan_the_network_computes_again(teacher: Detector, batches: list[Tensor]) -> None:
    student = make_student(teacher, BitPolicy())
    scan(student, batches[:1])
    with torch.no_grad(), in_float(student.network):
        mine = student.head_outputs(batches[1]).class_logits[0]
        assert torch.allclose(mine, teacher.head_outputs(batches[1]).class_logits[0], atol=1e-3)
