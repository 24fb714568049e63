"""What a teacher keeps of its training images, measured on forming ones: batch-norm statistics, or attention."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.protocol import Detector, StatisticsKind
from schemas.synth_config import LossWeights

MAX_PATCHES = 64
"""Patches of an image whose similarities count: 2,016 pairs. All pairs of a 40 x 40 map would be 1.3 million."""
GRID, BANDWIDTH = 41, 0.05
"""Points in [-1, 1] at which the density of similarities is estimated, and the width of a kernel there."""


class SiteStatistics(ABC):
    """Takes a term of the inversion loss at each site of a forward pass; a context, inside which its hooks are set.

    Args:
        sites: modules in the order of the forward pass.
    """

    def __init__(self, sites: Sequence[nn.Module]) -> None:
        self._sites = list(sites)
        self._values: list[Tensor] = []
        self._active = True
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Self:
        self._handles = [site.register_forward_hook(self._measure) for site in self._sites]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    @abstractmethod
    def weight(self, weights: LossWeights) -> float:
        """The weight that belongs to the first of `losses`."""

    @abstractmethod
    def losses(self) -> tuple[Tensor, Tensor]:
        """The loss of all sites of the last forward pass, and the first site's share, which has a weight of its own."""

    @abstractmethod
    def measured(self, site: nn.Module, inputs: Tensor, output: Tensor) -> Tensor:
        """One site's term, a scalar, of what went in and what came out."""

    def paused(self) -> "_Pause":
        """A context in which forward passes are not measured."""
        return _Pause(self)

    def _measure(self, site: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if self._active:
            self._values.append(self.measured(site, inputs[0], output))

    def _taken(self) -> list[Tensor]:
        """The terms since the last call; they are forgotten here, so that no graph outlives its step."""
        values, self._values = self._values, []
        return values


def statistics_of(teacher: Detector) -> SiteStatistics:
    """What the teacher's kind of site is measured with."""
    kinds = {StatisticsKind.BATCH_NORM: BatchNormMatching, StatisticsKind.ATTENTION: PatchSimilarity}
    return kinds[teacher.statistics_kind](teacher.statistics_sites())


class ChannelMoments(torch.autograd.Function):
    """Mean and biased variance of each channel of `(B, C, H, W)`; the backward pass is one fused multiply-add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Mean and variance, `(C,)` each."""
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, mean_gradient: Tensor, variance_gradient: Tensor) -> Tensor:  # type: ignore[override]
        """∂μ/∂x = 1/N and ∂σ²/∂x = 2 (x − μ) / N."""
        x, mean = ctx.saved_tensors
        count = x.numel() / x.shape[1]
        slope = 2 * variance_gradient / count
        offset = mean_gradient / count - slope * mean
        return torch.addcmul(offset[:, None, None], x, slope[:, None, None])


class BatchNormMatching(SiteStatistics):
    """Distance between a batch's statistics and the running statistics of every batch norm.

    Hooks take mean and variance of each layer's input in one pass.

    Args:
        sites: batch norms, frozen ones too, in the order of the forward pass; the first is the first layer's.
    """

    def weight(self, weights: LossWeights) -> float:
        """See `SiteStatistics`."""
        return weights.batch_norm

    def losses(self) -> tuple[Tensor, Tensor]:
        """Σ(‖μ−μ̂‖₂ + ‖σ²−σ̂²‖₂) over all layers of the last forward pass, and the first layer's share of it."""
        distances = self._taken()
        if not distances:
            zero = torch.zeros(())
            return zero, zero
        return torch.stack(distances).sum(), distances[0]

    def measured(self, site: nn.Module, inputs: Tensor, output: Tensor) -> Tensor:
        """See `SiteStatistics`."""
        mean, variance = ChannelMoments.apply(inputs)
        return (mean - site.running_mean).norm() + (variance - site.running_var).norm()


class PatchSimilarity(SiteStatistics):
    """Differential entropy of how similar the patches of an image are to each other, after each attention.

    On images, patches of the foreground differ from those of the background; on noise, all are much alike. So the
    entropy of the cosine similarities is raised, in the place of batch-norm statistics (PSAQ-ViT, arXiv 2203.02250).
    Their density is estimated with Gaussian kernels.

    Args:
        sites: attention modules that give out `(B, h, w, C)`.
    """

    def weight(self, weights: LossWeights) -> float:
        """See `SiteStatistics`."""
        return weights.attention

    def losses(self) -> tuple[Tensor, Tensor]:
        """Minus the entropy, summed over all sites and images of the last forward pass, and 0: no site is the first."""
        entropies = self._taken()
        if not entropies:
            zero = torch.zeros(())
            return zero, zero
        return -torch.stack(entropies).sum(), entropies[0].new_zeros(())

    def measured(self, site: nn.Module, inputs: Tensor, output: Tensor) -> Tensor:
        """See `SiteStatistics`."""
        return similarity_entropy(output).sum()


def similarity_entropy(patches: Tensor) -> Tensor:
    """Differential entropy, `(B,)` in nats, of the cosine similarities of patches `(B, h, w, C)`.

    Of a large map, at most `MAX_PATCHES` patches count, evenly spaced.
    """
    flat = patches.flatten(1, 2).float()
    count = flat.shape[1]
    if count > MAX_PATCHES:
        chosen = torch.arange(MAX_PATCHES, device=flat.device) * count // MAX_PATCHES
        flat = flat[:, chosen]
    unit = F.normalize(flat, dim=2)
    upper, right = torch.triu_indices(unit.shape[1], unit.shape[1], offset=1, device=flat.device)
    similarities = (unit @ unit.transpose(1, 2))[:, upper, right]  # (B, pairs)
    grid = torch.linspace(-1, 1, GRID, device=flat.device)
    kernels = torch.exp(-0.5 * ((grid - similarities[:, :, None]) / BANDWIDTH).square())
    density = kernels.mean(dim=1) / (BANDWIDTH * math.sqrt(2 * math.pi))  # (B, GRID)
    return torch.trapezoid(-density * (density + 1e-8).log(), grid, dim=1)


class _Pause:
    def __init__(self, statistics: SiteStatistics) -> None:
        self._statistics = statistics

    def __enter__(self) -> None:
        self._statistics._active = False

    def __exit__(self, *_: object) -> None:
        self._statistics._active = True
