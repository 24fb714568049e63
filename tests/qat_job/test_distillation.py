"""The distances between student and teacher are zero for equal ones, and move the student only."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.protocol import BinaryOutputs, HeadOutputs
from qat_job.distillation import FeatureTap, binary_divergence, feature_error, output_divergence


def outputs(seed: int, bins: int = 16, branches: int = 1) -> HeadOutputs:
    generator = torch.Generator().manual_seed(seed)
    classes = [torch.randn(2, 3, 21, generator=generator).requires_grad_() for _ in range(branches)]
    boxes = [torch.randn(2, 4, bins, 21, generator=generator).requires_grad_() for _ in range(branches)]
    return HeadOutputs(tuple(classes), tuple(boxes), None)


@pytest.mark.parametrize("bins", [1, 16])
@pytest.mark.parametrize("branches", [1, 2])
def test_equal_outputs_have_no_divergence_and_others_have_some(bins: int, branches: int) -> None:
    mine, theirs = outputs(0, bins, branches), outputs(1, bins, branches)
    assert float(output_divergence(mine, mine, 4.0).detach()) == pytest.approx(0, abs=1e-5)
    assert float(output_divergence(mine, theirs, 4.0).detach()) > 0.01


@pytest.mark.parametrize("bins", [1, 16])
def test_divergence_moves_the_student_only_where_the_teacher_gave_no_gradient(bins: int) -> None:
    mine = outputs(0, bins)
    given = outputs(1, bins)
    theirs = HeadOutputs((given.class_logits[0].detach(),), (given.box_logits[0].detach(),), None)
    output_divergence(mine, theirs, 4.0).backward()
    assert all(tensor.grad is not None and float(tensor.grad.abs().sum()) > 0 for tensor in mine.class_logits)
    assert all(tensor.grad is not None and float(tensor.grad.abs().sum()) > 0 for tensor in mine.box_logits)
    assert all(tensor.grad is None for tensor in (*theirs.class_logits, *theirs.box_logits))


@pytest.mark.parametrize("bins", [1, 16])
def test_following_the_gradient_lowers_the_divergence(bins: int) -> None:
    mine, theirs = outputs(0, bins), outputs(1, bins)
    before = output_divergence(mine, theirs, 2.0)
    before.backward()
    with torch.no_grad():
        moved = HeadOutputs(
            tuple(t - 0.05 * t.grad / t.grad.norm() for t in mine.class_logits if t.grad is not None),
            tuple(t - 0.05 * t.grad / t.grad.norm() for t in mine.box_logits if t.grad is not None),
            None,
        )
        assert output_divergence(moved, theirs, 2.0) < before


def test_every_branch_counts() -> None:
    mine, theirs = outputs(0, 16, 2), outputs(1, 16, 2)
    parts = [
        HeadOutputs((side.class_logits[k],), (side.box_logits[k],), None) for side in (mine, theirs) for k in range(2)
    ]
    whole = output_divergence(mine, theirs, 4.0)
    torch.testing.assert_close(
        whole, output_divergence(parts[0], parts[2], 4.0) + output_divergence(parts[1], parts[3], 4.0)
    )


def test_boxes_of_background_anchors_do_not_count() -> None:
    theirs = outputs(1)
    background = tuple(torch.full_like(logits, -30.0) for logits in theirs.class_logits)
    near, far = (
        HeadOutputs(background, tuple(t + s * torch.randn_like(t) for t in theirs.box_logits), None) for s in (0.1, 5)
    )
    teacher = HeadOutputs(background, theirs.box_logits, None)
    assert float(output_divergence(far, teacher, 4.0).detach()) == pytest.approx(0, abs=1e-6)
    assert float(output_divergence(near, teacher, 4.0).detach()) == pytest.approx(0, abs=1e-6)


def test_categorical_divergence_is_the_formula_per_foreground_mass() -> None:
    generator = torch.Generator().manual_seed(0)
    theirs, mine = (3 * torch.randn(1, 4, 6, generator=generator) for _ in range(2))
    boxes = torch.zeros(1, 4, 1, 6)
    found = output_divergence(
        HeadOutputs((mine,), (boxes,), None, (True,)), HeadOutputs((theirs,), (boxes,), None, (True,)), 2.0
    )
    total = mass = 0.0
    for anchor in range(6):
        p, q = ((logits[0, :, anchor] / 2).softmax(dim=0).tolist() for logits in (theirs, mine))
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        mass += max(theirs[0, :, anchor].softmax(dim=0).tolist()[1:])
    assert float(found) == pytest.approx(4 * total / max(mass, 1.0), rel=1e-4)


def test_anchors_that_are_certain_background_for_both_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    theirs, mine = (torch.randn(1, 4, 6, generator=generator) for _ in range(2))
    boxes = torch.randn(1, 4, 1, 6, generator=generator)
    filling = torch.full((1, 4, 3), -30.0)
    filling[:, 0] = 0

    def divergence(filled: bool) -> float:
        sides = [torch.cat((side, filling), dim=2) if filled else side for side in (mine, theirs)]
        edges = nn.functional.pad(boxes, (0, 3)) if filled else boxes
        student, teacher = (HeadOutputs((side,), (edges,), None, (True,)) for side in sides)
        return float(output_divergence(student, teacher, 1.0))

    assert divergence(True) == pytest.approx(divergence(False), rel=1e-5)


def test_other_binary_outputs_count_by_the_weight_of_their_place() -> None:
    generator = torch.Generator().manual_seed(0)
    theirs, mine = (torch.randn(1, 5, 3, generator=generator) for _ in range(2))
    weights = torch.tensor([[0.0, 0.8, 0.7]])
    same = outputs(0)
    student, teacher = (
        HeadOutputs(same.class_logits, same.box_logits, None, (), (BinaryOutputs(logits, weights),))
        for logits in (mine, theirs)
    )
    each = binary_divergence(theirs, mine).mean(dim=1)[0]
    expected = float(0.8 * each[1] + 0.7 * each[2]) / 1.5
    assert float(output_divergence(student, teacher, 1.0).detach()) == pytest.approx(expected, rel=1e-4)


def test_binary_divergence_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = (4 * torch.randn(100, generator=generator, dtype=torch.float64) for _ in range(2))
    p, q = teacher.sigmoid(), student.sigmoid()
    expected = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(binary_divergence(teacher, student), expected)


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_divergence_of_certain_outputs_is_finite(logit: float) -> None:
    certain = HeadOutputs((torch.full((1, 2, 3), logit),), (torch.full((1, 4, 16, 3), logit),), None)
    opposite = HeadOutputs((torch.full((1, 2, 3), -logit),), (torch.full((1, 4, 16, 3), -logit),), None)
    assert bool(output_divergence(certain, opposite, 1.0).isfinite())


def test_feature_error_is_relative_to_the_teachers_variance() -> None:
    theirs = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert float(feature_error([theirs], [theirs])) == 0
    mean_only = torch.full_like(theirs, float(theirs.mean()))
    assert float(feature_error([mean_only], [theirs])) == pytest.approx(1, rel=0.01)
    mine = theirs + 0.1
    assert float(feature_error([10 * mine], [10 * theirs])) == pytest.approx(
        float(feature_error([mine], [theirs])), rel=1e-4
    )
    both = feature_error([theirs, mean_only], [theirs, theirs])
    assert float(both) == pytest.approx(0.5, rel=0.01)


def test_feature_error_of_a_constant_feature_is_finite() -> None:
    constant = torch.ones(1, 2, 4, 4)
    assert bool(feature_error([constant], [constant]).isfinite())


def test_taps_give_features_in_the_order_of_their_sites_and_forget_them() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4), nn.Linear(4, 5))
    x = torch.rand(1, 2)
    with FeatureTap(network, ["2", "0"]) as tap:
        network(x)
        last, first = tap.features()
        assert torch.equal(first, network[0](x))
        assert torch.equal(last, network(x))
        tap.features()
        assert tap.features() == []
    network(x)
    assert tap.features() == [], "hooks are gone outside the context"


def test_taps_keep_the_graph() -> None:
    layer = nn.Linear(2, 2)
    with FeatureTap(nn.Sequential(layer), ["0"]) as tap:
        x: Tensor = torch.rand(1, 2)
        layer(x)
        (feature,) = tap.features()
    F.mse_loss(feature, torch.zeros(1, 2)).backward()
    assert layer.weight.grad is not None


def test_feature_error_and_its_gradient_are_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    theirs = 2 + torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    mine = (theirs + torch.randn(theirs.shape, generator=generator, dtype=torch.float64)).requires_grad_()
    expected = F.mse_loss(mine, theirs) / theirs.var()
    torch.testing.assert_close(feature_error([mine], [theirs]), expected)
    (gradient,) = torch.autograd.grad(feature_error([mine], [theirs]), mine)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, mine)[0])
