"""What a teacher keeps of its training images, measured on forming ones: batch-norm statistics, or attention."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.folding import FoldedNorm, fold
from detectors.hooks import hooked
from detectors.protocol import Detector, StatisticsKind
from schemas.synth_config import LossWeights

SMALLEST_SQUARE = 1e-24
"""Below this a squared distance counts as reached: its root has no gradient there."""
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
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        self._values = []  # what a pass that was broken off left
        self._hooks.enter_context(hooked(site.register_forward_hook(self._measure) for site in self._sites))
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

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
    """What the teacher's kind of site is measured with.

    Args:
        teacher: a copy for this purpose: its batch norms are folded into convolutions where they can be.
    """
    layers = teacher.layers
    sites = [teacher.network.get_submodule(name) for name in layers.statistics]
    if layers.statistics_kind is StatisticsKind.ATTENTION:
        return PatchSimilarity(sites)
    modules: Iterable[Any] = teacher.network.modules()
    for module in modules:
        if hasattr(module, "inplace"):
            module.inplace = False  # activations would overwrite what a folded site is measured at
    return BatchNormMatching(fold(teacher, sites))


class ChannelMoments(torch.autograd.Function):
    """Mean and biased variance of each channel of `(B, C, H, W)`; the backward pass is one fused multiply-add.

    The kernel is that of batch norm in training: a fraction of the time of `torch.var_mean` on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Mean and variance, `(C,)` each."""
        # In half precision it would also give its results in that.
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        mean, variance = torch.ops.aten.batch_norm_update_stats(wide, None, None, 0.0)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, mean_gradient: Tensor, variance_gradient: Tensor) -> Tensor:  # type: ignore[override]
        """∂μ/∂x = 1/N and ∂σ²/∂x = 2 (x − μ) / N."""
        x, mean = ctx.saved_tensors
        count = x.numel() / x.shape[1]
        slope = 2 * variance_gradient / count
        offset = mean_gradient / count - slope * mean
        return torch.addcmul(offset[:, None, None].to(x.dtype), x, slope[:, None, None].to(x.dtype))


class BatchNormMatching(SiteStatistics):
    """Distance between a batch's statistics and the running statistics of every batch norm.

    Hooks take mean and variance of each layer in one pass. Behind a folded batch norm, y = g · (x − μ̂) + b with
    g = γ / σ̂, the distances are those of (mean(y) − b) / g and var(y) / g².

    Args:
        sites: batch norms, frozen or folded ones too, in the order of the forward pass; the first is the first layer's.
    """

    def __init__(self, sites: Sequence[FoldedNorm | nn.Module]) -> None:
        super().__init__([site.output if isinstance(site, FoldedNorm) else site for site in sites])
        self._norms: dict[nn.Module, Any] = dict(zip(self._sites, sites, strict=True))
        self._targets: _Targets | None = None
        self._order: list[nn.Module] = []

    def weight(self, weights: LossWeights) -> float:
        """See `SiteStatistics`."""
        return weights.batch_norm

    def losses(self) -> tuple[Tensor, Tensor]:
        """Σ(‖μ−μ̂‖₂ + ‖σ²−σ̂²‖₂) over all layers of the last forward pass, and the first layer's share of it."""
        order, self._order = self._order, []
        moments = self._taken()
        if not moments:
            zero = torch.zeros(())
            return zero, zero
        if self._targets is None or self._targets.order != order:
            self._targets = _Targets(order, [self._norms[site] for site in order])
        distances = self._targets.distances(moments)
        return distances.sum(), distances[0]

    def measured(self, site: nn.Module, inputs: Tensor, output: Tensor) -> Tensor:
        """Mean and variance, `(2, C)`."""
        self._order.append(site)
        return torch.stack(ChannelMoments.apply(output if isinstance(self._norms[site], FoldedNorm) else inputs))


class _Targets:
    """What the moments of the layers `order`, one after another, are compared with.

    Distances are (mean − shift) · scale and variance · scale² − running variance.
    """

    def __init__(self, order: list[nn.Module], norms: list[Any]) -> None:
        self.order = order
        variances = [norm.running_var for norm in norms]
        shifts = [norm.shift if isinstance(norm, FoldedNorm) else norm.running_mean for norm in norms]
        scales = [
            1 / norm.gain if isinstance(norm, FoldedNorm) else torch.ones_like(norm.running_var) for norm in norms
        ]
        scale = torch.cat(scales)
        self._lengths = torch.tensor([len(variance) for variance in variances], device=scale.device)
        self._scale = torch.stack((scale, scale.square()))
        self._target = torch.stack((torch.cat(shifts) * scale, torch.cat(variances)))

    def distances(self, moments: list[Tensor]) -> Tensor:
        """‖μ−μ̂‖₂ + ‖σ²−σ̂²‖₂ of each layer, `(layers,)`, of `(2, C)` each."""
        away = torch.cat(moments, dim=1) * self._scale - self._target
        squares = torch.segment_reduce(away.square().T.contiguous(), "sum", lengths=self._lengths, axis=0)
        return squares.clamp(min=SMALLEST_SQUARE).sqrt().sum(dim=1)


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
