"""Inversion: optimise pixels until the teacher sees the labels in them and its own statistics fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from detectors.detections import Detections
from detectors.memory import kept_bytes
from detectors.protocol import Detector
from schemas.image_size import ImageSize
from schemas.synth_config import InversionConfig, LabelConfig, LossWeights, Precision, ViewConfig
from synth_job.divergence import Diverged
from synth_job.statistics import statistics_of
from synth_job.views import View

CHECK_INTERVAL = 25
"""Steps between checks that loss and pixels are finite; each check waits for the device."""

SMALLEST_NORM = 1e-12

Relabel = Callable[[int, Tensor], list[Detections] | None]
"""Called after step i with (i, images); labels it returns replace the current ones."""


@dataclass(frozen=True)
class Course:
    """How images are optimised.

    Attributes:
        iterations: Adam steps, learning rate decayed to 0 by a cosine.
        learning_rate: of Adam, in pixel range per step.
        weights: of the loss terms.
        views: how the teacher's view changes from step to step.
    """

    iterations: int
    learning_rate: float
    weights: LossWeights = field(default_factory=LossWeights)
    views: ViewConfig = field(default_factory=ViewConfig)

    @classmethod
    def of(cls, config: InversionConfig | LabelConfig, iterations: int | None = None) -> Self:
        """As a stage's configuration says; `iterations` takes the place of its own."""
        return cls(iterations or config.iterations, config.learning_rate, config.weights, config.views)


@dataclass(frozen=True)
class Watch:
    """Who looks on while images form.

    Attributes:
        advance: called after every step; what it raises ends the inversion.
        relabel: may replace the labels between steps.
        terms: takes the unweighted terms of each step, `(4,)`: task, statistics, first layer, total variation.
    """

    advance: Callable[[], None] = lambda: None
    relabel: Relabel | None = None
    terms: list[Tensor] | None = None


UNWATCHED = Watch()


class Inversion:
    """Inverts one teacher, batch after batch (arXiv 2507.16782, stage 1).

    Args:
        teacher: the full-precision detector; it is copied, and its weights get no gradient.
        precision: of the teacher's convolutions.
    """

    def __init__(self, teacher: Detector, precision: Precision = Precision.FLOAT32) -> None:
        self._teacher = teacher.copy()  # the statistics change how it computes, and not what
        self._statistics = statistics_of(self._teacher)
        self._device = next(teacher.network.parameters()).device
        self._precision = precision

    def run(
        self,
        images: Tensor,
        labels: Sequence[Detections],
        course: Course,
        generator: torch.Generator,
        watch: Watch = UNWATCHED,
    ) -> Tensor:
        """Optimise images for labels, seen in random views.

        Args:
            images: start, `(B, 3, H, W)` in [0, 1].
            labels: boxes in pixels for each image.
            course: how.
            generator: draws the views, on the CPU.
            watch: looks on.

        Returns:
            The images, `(B, 3, H, W)` in [0, 1], on the teacher's device.

        Raises:
            Diverged: the loss or pixels are not finite.
        """
        # The copy frees the caller's tensor; channels_last is what convolutions run fastest on.
        images = images.to(self._device).contiguous(memory_format=torch.channels_last).clone().requires_grad_()
        labels = [label.to(self._device) for label in labels]
        optimizer = torch.optim.Adam([images], lr=course.learning_rate, betas=(0.5, 0.9), fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=course.iterations)
        losses = torch.zeros((), device=self._device)  # their sum: once not finite, it stays so
        with self._statistics:
            for step in range(course.iterations):
                optimizer.zero_grad()
                loss, terms = self._loss(images, labels, course, generator)
                if watch.terms is not None:
                    watch.terms.append(torch.stack([term.detach().to(loss) for term in terms]))
                loss.backward()
                optimizer.step()
                schedule.step()
                losses += loss.detach()
                with torch.no_grad():
                    images.clamp_(0, 1)
                if (step + 1) % CHECK_INTERVAL == 0 or step + 1 == course.iterations:
                    check_finite(images, losses, step + 1)
                if watch.relabel is not None:
                    with self._statistics.paused():
                        labels = watch.relabel(step, images.detach()) or labels
                watch.advance()
        return images.detach().contiguous()

    def kept_bytes(self, images: Tensor, labels: Sequence[Detections], weights: LossWeights) -> int:
        """Bytes that one step on `images`, `(B, 3, H, W)`, keeps for its gradients, seen in their own size."""
        images = images.to(self._device).contiguous(memory_format=torch.channels_last).clone().requires_grad_()
        course = Course(1, 0.0, weights, ViewConfig(flip=0.0, shift=0.0, scales=(1.0,)))
        with self._statistics:
            return kept_bytes(lambda: self._loss(images, labels, course, torch.Generator()))

    def _loss(
        self, images: Tensor, labels: Sequence[Detections], course: Course, generator: torch.Generator
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The loss of one view, and its four terms without their weights."""
        teacher, weights = self._teacher, course.weights
        size = ImageSize(*images.shape[2:])
        view = View.draw(course.views, size, teacher.identity.stride, generator, teacher.smallest_input)
        view = replace(view, flipped=view.flipped and teacher.mirror is not None, mirror=teacher.mirror or ())
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision is Precision.BFLOAT16):
            task_loss = teacher.detection_loss(view.of_images(images), [view.of_labels(label) for label in labels])
        # Summed over images, as detection losses are when they meet per-batch statistics.
        loss = weights.task * len(labels) * task_loss
        every_layer, first_layer = self._statistics.losses()
        loss = loss + self._statistics.weight(weights) * every_layer + weights.first_layer * first_layer
        variation = total_variation(images)
        return loss + weights.total_variation * variation, (task_loss, every_layer, first_layer, variation)


def check_finite(images: Tensor, loss: Tensor, step: int) -> None:
    """Stop an inversion that cannot recover: Adam's moments keep what is not a number.

    Raises:
        Diverged: naming the images with pixels that are not finite, or all where only the `loss` is not.
    """
    finite = torch.isfinite(images.detach()).flatten(1).all(dim=1)
    if bool(finite.all() & torch.isfinite(loss)):
        return
    bad = torch.nonzero(~finite).flatten().tolist()
    raise Diverged(bad or range(len(images)), step)


def total_variation(images: Tensor) -> Tensor:
    """L2 norm of the differences between neighbouring pixels, vertical plus horizontal."""
    variation: Tensor = TotalVariation.apply(images)
    return variation


class TotalVariation(torch.autograd.Function):
    """Both norms and their gradient, without the padded copies that slicing leaves on the way back."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:  # type: ignore[override]
        """A scalar."""
        vertical = images[:, :, 1:] - images[:, :, :-1]
        horizontal = images[:, :, :, 1:] - images[:, :, :, :-1]
        norms = vertical.norm(), horizontal.norm()
        ctx.save_for_backward(images, vertical, horizontal, *norms)
        return norms[0] + norms[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        """Dᵀ D x / ‖D x‖ for the differences D along each axis; 0 where there are none."""
        images, vertical, horizontal, *norms = ctx.saved_tensors
        down, across = (gradient / norm.clamp(min=SMALLEST_NORM) for norm in norms)
        vertical, horizontal = vertical * down, horizontal * across
        slope = torch.zeros_like(images)
        slope[:, :, 1:] += vertical
        slope[:, :, :-1] -= vertical
        slope[:, :, :, 1:] += horizontal
        slope[:, :, :, :-1] -= horizontal
        return slope
