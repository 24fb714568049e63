"""Step-size initialisation: the step sizes (and zero points) of least squared error on the calibration set.

Weights are searched directly. Activations are histogrammed over all batches of the full-precision network, so that
memory does not grow with the number of images and no value is left out.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from detectors.hooks import hooked
from quantization.convert import Place, activation_quantizers, in_float, quantized_layers
from quantization.layers import QuantizedLayer
from quantization.plan import QuantizerSpec

BINS = 2048
"""Histogram bins per activation."""
SHRINKS = torch.linspace(0.02, 1.0, 99)
"""Candidate ranges, as shares of the observed one."""
LOWER_SHRINKS = torch.linspace(0.0, 1.0, 9)
"""The same for the lower end of affine quantizers."""
AT_ONCE = 64
"""Candidates that are tried at once, at most, so that their errors at all bins stay in a processor's cache (1 MB)."""


@torch.no_grad()
def calibrate(network: nn.Module, batches: Callable[[], Iterable[Tensor]], forward: Callable[[Tensor], object]) -> None:
    """Initialise every quantizer of a student.

    Args:
        network: the student's network.
        batches: gives the calibration images anew at each call (they are seen twice: ranges, then histograms).
        forward: runs the student on one batch.
    """
    for layer in quantized_layers(network).values():
        calibrate_weight(layer)

    for place, observer in observed_activations(network, batches, forward):
        place.quantizer.initialise(*activation_step_size(observer, place.quantizer.spec))


@torch.no_grad()
def observed_activations(
    network: nn.Module, batches: Callable[[], Iterable[Tensor]], forward: Callable[[Tensor], object]
) -> list[tuple[Place, "HistogramObserver"]]:
    """What each activation's quantizer of a student takes in full precision; arguments as of `calibrate`."""
    pairs = [(place, HistogramObserver()) for place in activation_quantizers(network)]
    handles = [
        place.module.register_forward_pre_hook(
            lambda _, inputs, at=place.argument, observer=observer: observer.observe(inputs[at])
        )
        for place, observer in pairs
    ]
    with hooked(handles), in_float(network):
        for _ in ("ranges", "histograms"):
            for images in batches():
                forward(images)
            for _, observer in pairs:
                observer.finish_pass()
    return pairs


@torch.no_grad()
def calibrate_weight(layer: QuantizedLayer) -> None:
    """Initialise a layer's weight quantizer."""
    layer.weight_quantizer.initialise(weight_step_sizes(layer.weight, layer.weight_quantizer.spec))


class HistogramObserver:
    """Range in a first pass over the data, histogram in a second."""

    def __init__(self) -> None:
        self.lowest = torch.tensor(float("inf"))
        self.highest = torch.tensor(float("-inf"))
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self._counting = False

    def observe(self, x: Tensor) -> None:
        """Take in one tensor."""
        if self._counting:
            edges = (self.lowest.item(), self.highest.item())
            self.counts += torch.histc(x.float(), BINS, *edges).double().cpu()
        else:
            low, high = torch.aminmax(x)
            self.lowest = torch.minimum(self.lowest, low.float().cpu())
            self.highest = torch.maximum(self.highest, high.float().cpu())

    def finish_pass(self) -> None:
        """The first pass ended: widen an empty range, start counting."""
        if not self._counting and self.highest <= self.lowest:
            self.highest = self.lowest + 1e-6
        self._counting = True

    def centres(self) -> Tensor:
        """Middle of each bin, `(BINS,)` float64."""
        edges = torch.linspace(self.lowest.item(), self.highest.item(), BINS + 1, dtype=torch.float64)
        return (edges[:-1] + edges[1:]) / 2


def weight_step_sizes(weight: Tensor, spec: QuantizerSpec) -> Tensor:
    """Symmetric step sizes of least squared error, `(channels,)` or `(1,)`, for weights with channels first."""
    rows = weight.detach().flatten(1) if spec.granularity == "per_channel" else weight.detach().reshape(1, -1)
    lowest, highest = spec.range
    largest = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-8)
    best_error = torch.full_like(largest, float("inf"))
    best = largest / highest
    for shrink in SHRINKS.tolist():
        step = largest * shrink / highest
        rounded = (rows / step).round_().clamp_(lowest, highest).mul_(step)
        error = rounded.sub_(rows).square_().sum(dim=1, keepdim=True)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best = torch.where(better, step, best)
    return best.squeeze(1)


def activation_step_size(
    observer: HistogramObserver, spec: QuantizerSpec, seen_through: Callable[[Tensor], Tensor] = lambda x: x
) -> tuple[Tensor, Tensor]:
    """Step size and integer zero point of least squared error for a histogrammed activation, `(1,)` each.

    Args:
        observer: that saw the activation.
        spec: of its quantizer, per tensor.
        seen_through: the elementwise function that follows; the error is measured behind it.
    """
    low, high = observer.lowest.item(), observer.highest.item()
    lowest, highest = spec.range
    if spec.affine:
        upper = SHRINKS.double() * max(high, 0.0)
        lower = LOWER_SHRINKS.double() * min(low, 0.0)
        upper, lower = (grid.flatten() for grid in torch.meshgrid(upper, lower, indexing="ij"))
        steps = ((upper - lower) / (highest - lowest)).clamp(min=1e-8)
        zero_points = (lowest - lower / steps).round().clamp(lowest, highest)
    else:
        steps = (SHRINKS.double() * max(abs(low), abs(high)) / highest).clamp(min=1e-8)
        zero_points = torch.zeros_like(steps)
    values, wanted = observer.centres(), seen_through(observer.centres())
    errors, chunks = [], len(steps) // AT_ONCE + 1
    for column, zeros in zip(steps[:, None].chunk(chunks), zero_points[:, None].chunk(chunks), strict=True):
        quantized = (values / column).round_().add_(zeros).clamp_(lowest, highest).sub_(zeros).mul_(column)
        errors.append(seen_through(quantized).sub_(wanted).square_() @ observer.counts)
    best = torch.cat(errors).argmin()
    return steps[best].float().reshape(1), zero_points[best].float().reshape(1)
