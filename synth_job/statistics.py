"""Batch-norm statistics of forming images against those of the training images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detectors.folding import FoldedNorm

SMALLEST_SQUARE = 1e-24
"""Below this a squared distance counts as reached: its root has no gradient there."""


class ChannelMoments(torch.autograd.Function):
    """Mean and biased variance of each channel of `(B, C, H, W)`; the backward pass is one fused multiply-add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Mean and variance, `(C,)` each."""
        mean, variance = channel_moments(x)
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


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of `(B, C, H, W)`, `(C,)` each.

    What batch norm itself calls while it trains: a fraction of the time of `torch.var_mean` on a CPU.
    """
    mean, variance = torch.ops.aten.batch_norm_update_stats(x, None, None, 0.0)
    return mean, variance


class BatchNormMatching:
    """Distance between a batch's statistics and the running statistics of every batch norm.

    Used as a context: inside it, hooks take mean and variance of each layer in one pass. Behind a folded batch norm,
    y = g · (x − μ̂) / σ̂ + b, the distances are those of (mean(y) − b) / g and var(y) / g², with g = γ / σ̂.

    Args:
        sites: batch norms, folded or not, in the order of the forward pass; the first is the first layer's.
    """

    def __init__(self, sites: Sequence[FoldedNorm | nn.Module]) -> None:
        self._sites = list(sites)
        self._moments: list[tuple[int, Tensor, Tensor]] = []
        self._active = True
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._targets: _Targets | None = None

    def __enter__(self) -> "BatchNormMatching":
        for number, site in enumerate(self._sites):
            if isinstance(site, FoldedNorm):
                self._handles.append(site.output.register_forward_hook(self._of_output(number)))
            else:
                self._handles.append(site.register_forward_pre_hook(self._of_input(number)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def losses(self) -> tuple[Tensor, Tensor]:
        """Σ(‖μ−μ̂‖₂ + ‖σ²−σ̂²‖₂) over all layers of the last forward pass, and the first layer's share of it."""
        moments, self._moments = self._moments, []
        if not moments:
            zero = torch.zeros(())
            return zero, zero
        order = [number for number, _, _ in moments]
        if self._targets is None or self._targets.order != order:
            self._targets = _Targets.of([self._sites[number] for number in order], order)
        distances = self._targets.distances([mean for _, mean, _ in moments], [variance for _, _, variance in moments])
        return distances.sum(), distances[0]

    def paused(self) -> "_Pause":
        """A context in which forward passes are not measured."""
        return _Pause(self)

    def _of_output(self, number: int):  # type: ignore[no-untyped-def]
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            self._measure(number, output)

        return hook

    def _of_input(self, number: int):  # type: ignore[no-untyped-def]
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._measure(number, inputs[0])

        return hook

    def _measure(self, number: int, x: Tensor) -> None:
        if self._active:
            self._moments.append((number, *ChannelMoments.apply(x)))


class _Pause:
    def __init__(self, matching: BatchNormMatching) -> None:
        self._matching = matching

    def __enter__(self) -> None:
        self._matching._active = False

    def __exit__(self, *_: object) -> None:
        self._matching._active = True


class _Targets:
    """What the statistics of some layers, one after another in one vector, are compared with."""

    def __init__(self, order: list[int], sizes: list[int], parts: list[Tensor]) -> None:
        self.order = order
        self._lengths = torch.tensor(sizes, device=parts[0].device)
        self._shift, self._scale, self._square, self._variance = parts

    @classmethod
    def of(cls, sites: list[FoldedNorm | nn.Module], order: list[int]) -> "_Targets":
        """Distances are (mean − shift) · scale and variance · scale² − running variance."""
        shifts: list[Tensor] = []
        scales: list[Tensor] = []
        variances: list[Tensor] = []
        for site in sites:
            variance: Any = site.running_var
            mean: Any = site.running_mean
            variances.append(variance)
            shifts.append(site.shift if isinstance(site, FoldedNorm) else mean)
            scales.append(1 / site.gain if isinstance(site, FoldedNorm) else torch.ones_like(variance))
        shift, scale, variance = torch.cat(shifts), torch.cat(scales), torch.cat(variances)
        return cls(order, [len(part) for part in variances], [shift, scale, scale.square(), variance])

    def distances(self, means: list[Tensor], variances: list[Tensor]) -> Tensor:
        """‖μ−μ̂‖₂ + ‖σ²−σ̂²‖₂ of each layer, `(layers,)`."""
        away = torch.stack(
            (
                (torch.cat(means) - self._shift) * self._scale,
                torch.cat(variances) * self._square - self._variance,
            )
        )
        squares = torch.segment_reduce(away.square().T.contiguous(), "sum", lengths=self._lengths, axis=0)
        return squares.clamp(min=SMALLEST_SQUARE).sqrt().sum(dim=1)
