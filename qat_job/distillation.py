"""What the student learns from the teacher: head outputs and features."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.hooks import hooked
from detectors.protocol import BinaryOutputs, HeadOutputs, PlainOutputs
from qat_job.team import Team
from quantization.fake_quantize import inner_product

SMALLEST_VARIANCE = 1e-8
"""A feature that hardly varies is compared as if it varied by this."""


def output_divergence(
    student: HeadOutputs, teacher: HeadOutputs, temperature: float, box_weight: float = 1.0
) -> Tensor:
    """KL(teacher ‖ student) on the head's outputs at temperature τ, scaled by τ², a scalar.

    Class logits are independent binary distributions, or one distribution over classes; box logits are categorical over
    bins, or plain distances where a head has one bin (then the absolute difference stands in). Each image's sum is
    divided by its foreground mass, the sum over anchors of the teacher's highest class probability; box terms are
    weighted by that probability, since a background anchor's box means nothing; `box_weight` multiplies them once more.
    Other binary and plain outputs of the head count as boxes do, by the weights they bring.
    """
    total = student.class_logits[0].new_zeros(())
    kinds = teacher.categorical or (False,) * len(teacher.class_logits)
    pairs = zip(student.class_logits, student.box_logits, teacher.class_logits, teacher.box_logits, kinds, strict=True)
    for student_classes, student_boxes, teacher_classes, teacher_boxes, categorical in pairs:
        if categorical:
            confidence = teacher_classes.softmax(dim=1)[:, 1:].amax(dim=1)  # (B, A)
            classes = categorical_divergence(teacher_classes / temperature, student_classes / temperature, dim=1)
        else:
            confidence = teacher_classes.sigmoid().amax(dim=1)
            classes = binary_divergence(teacher_classes / temperature, student_classes / temperature).sum(dim=1)
        mass = confidence.sum(dim=1).clamp(min=1.0)  # (B,)
        if teacher_boxes.shape[2] == 1:
            boxes = (teacher_boxes - student_boxes).abs().sum(dim=2)
        else:
            divergence = categorical_divergence(teacher_boxes / temperature, student_boxes / temperature, dim=2)
            boxes = divergence * temperature**2
        boxes = (boxes.mean(dim=1) * confidence).sum(dim=1)
        total = total + ((classes.sum(dim=1) * temperature**2 + box_weight * boxes) / mass).mean()
    for mine, theirs in zip(student.binary, teacher.binary, strict=True):
        total = total + box_weight * weighted_divergence(mine, theirs, temperature)
    for own, expected in zip(student.plain, teacher.plain, strict=True):
        total = total + box_weight * weighted_difference(own, expected)
    return total


def weighted_divergence(student: BinaryOutputs, teacher: BinaryOutputs, temperature: float) -> Tensor:
    """KL of binary outputs at temperature τ, scaled by τ²: mean over outputs, then by the teacher's weights."""
    divergence = binary_divergence(teacher.logits / temperature, student.logits / temperature).mean(dim=1)  # (B, K)
    mass = teacher.weights.sum(dim=1).clamp(min=1.0)
    return ((divergence * teacher.weights).sum(dim=1) * temperature**2 / mass).mean()


def weighted_difference(student: PlainOutputs, teacher: PlainOutputs) -> Tensor:
    """Absolute difference of plain outputs: mean over outputs, then by the teacher's weights."""
    difference = (teacher.values - student.values).abs().mean(dim=1)  # (B, K)
    mass = teacher.weights.sum(dim=1).clamp(min=1.0)
    return ((difference * teacher.weights).sum(dim=1) / mass).mean()


def categorical_divergence(teacher_logits: Tensor, student_logits: Tensor, dim: int) -> Tensor:
    """KL divergence between the distributions of logits over `dim`, which is summed away."""
    return F.kl_div(
        F.log_softmax(student_logits, dim=dim),
        F.log_softmax(teacher_logits, dim=dim),
        reduction="none",
        log_target=True,
    ).sum(dim=dim)


def binary_divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """KL divergence between the Bernoulli distributions of two logits, elementwise."""
    probability = teacher_logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(student_logits, probability, reduction="none")
    return cross - F.binary_cross_entropy_with_logits(teacher_logits, probability, reduction="none")


def feature_error(
    student: Sequence[Tensor], teacher: Sequence[Tensor], variances: Sequence[Tensor] | None = None
) -> Tensor:
    """Mean over sites of the squared error of features, relative to the teacher's variance at the site, a scalar.

    Args:
        student: features of each site.
        teacher: those of the teacher.
        variances: of the teacher's features, where `teacher` is a part of what they are taken over.
    """
    if variances is None:
        variances = feature_variances(teacher)
    errors = [
        RelativeSquaredError.apply(mine, theirs, variance)
        for mine, theirs, variance in zip(student, teacher, variances, strict=True)
    ]
    return torch.stack(errors).mean()


def feature_variances(features: Sequence[Tensor], team: Team | None = None) -> list[Tensor]:
    """The variance of each feature, over what all ranks of a team see."""
    means = torch.stack([feature.mean() for feature in features])
    squares = torch.stack([inner_product(feature, feature) / feature.numel() for feature in features])
    if team is not None:
        team.average([means, squares])
    counts = [feature.numel() * (1 if team is None else team.count) for feature in features]
    ratios = means.new_tensor([count / max(count - 1, 1) for count in counts])
    return list(((squares - means.square()) * ratios).clamp(min=SMALLEST_VARIANCE).unbind())


class RelativeSquaredError(torch.autograd.Function):
    """Mean squared error of one feature over the teacher's variance; keeps the difference alone for the way back."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, theirs: Tensor, variance: Tensor) -> Tensor:  # type: ignore[override]
        """A scalar; `mine` alone gets a gradient."""
        difference = mine - theirs
        slope = 1 / (theirs.numel() * variance)
        ctx.save_for_backward(difference, slope)
        return inner_product(difference, difference) * slope

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """2 (mine − theirs) / (N σ²)."""
        difference, slope = ctx.saved_tensors
        return difference * (2 * slope * gradient), None, None


class FeatureTap:
    """Collects the outputs of named modules of a forward pass; a context.

    Args:
        network: whose modules.
        sites: their names, in any order; features come in the order of `sites`.
    """

    def __init__(self, network: nn.Module, sites: Sequence[str]) -> None:
        self._modules = [network.get_submodule(site) for site in sites]
        self._features: list[Tensor | None] = [None] * len(self._modules)
        self._hooks = ExitStack()

    def __enter__(self) -> "FeatureTap":
        keep = (module.register_forward_hook(self._keep(index)) for index, module in enumerate(self._modules))
        self._hooks.enter_context(hooked(keep))
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def features(self) -> list[Tensor]:
        """The outputs of the last forward pass; they are forgotten here, so that no graph outlives its step."""
        features, self._features = self._features, [None] * len(self._modules)
        return [feature for feature in features if feature is not None]

    def _keep(self, index: int):  # type: ignore[no-untyped-def]
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            self._features[index] = output

        return hook
