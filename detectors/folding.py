"""Batch norm folded into the convolutions before it, found by watching one forward pass; any family."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from detectors.hooks import hooked
from detectors.protocol import Detector

PROBE_CELLS = 4
"""Side of the image that the forward pass is watched with, in strides of the network."""
SMALLEST_GAIN = 1e-4
"""A batch norm with a channel whose |γ / σ̂| is below this share of its largest is not folded: its statistics could not
be told from the folded output any more."""
TOLERANCE = 1e-3
"""Largest relative difference behind the sites; more means that a convolution's output is used elsewhere too."""


@dataclass(frozen=True)
class FoldedNorm:
    """A batch norm that now is part of a convolution.

    Attributes:
        output: the module whose output is that of the batch norm.
        gain: γ / σ̂ of each channel, `(C,)`.
        shift: β of each channel, `(C,)`: its mean where the batch has the running statistics.
        running_mean: μ̂, `(C,)`.
        running_var: σ̂², `(C,)`.
    """

    output: nn.Conv2d
    gain: Tensor
    shift: Tensor
    running_mean: Tensor
    running_var: Tensor


def fold(detector: Detector, sites: Sequence[nn.Module]) -> list[FoldedNorm | nn.Module]:
    """Fold those of the batch norms `sites` that follow a convolution, in place; the function stays the same.

    Returns:
        For each site what it was folded into, or itself where it was not; in the order of `sites`.
    """
    network = detector.network
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # an activation would change what a folded convolution gave, which is measured
    before, producers = _watched(detector, sites)
    names = {module: name for name, module in network.named_modules()}
    found: list[FoldedNorm | nn.Module] = []
    folded: list[tuple[str, nn.Module, nn.Conv2d, Any, Any]] = []
    for site in sites:
        convolution = producers.get(site)
        if convolution is None or not _foldable(site):
            found.append(site)
            continue
        folded.append((names[site], site, convolution, convolution.weight, convolution.bias))
        found.append(_fold_one(convolution, site))
        _replace(network, names[site], nn.Identity())
    after, _ = _watched(detector, [network.get_submodule(names[site]) for site in sites])
    if not _alike(before, after):
        for name, site, convolution, weight, bias in folded:
            convolution.weight, convolution.bias = weight, bias
            _replace(network, name, site)
        return list(sites)
    return found


@torch.no_grad()
def _watched(detector: Detector, sites: Sequence[nn.Module]) -> tuple[list[Tensor], dict[nn.Module, nn.Conv2d]]:
    """What the sites put out in one forward pass, and the convolution whose output each took, where that was so."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensor is kept, so that its id stays its own
    taken: dict[nn.Module, set[nn.Conv2d | None]] = {}
    users: dict[nn.Conv2d, set[nn.Module]] = {}
    given: list[tuple[nn.Module, Tensor]] = []
    outputs: list[Tensor] = []

    def leave(module: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made[id(output)] = (module, output)

    def take(site: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        convolution = made[id(inputs[0])][0] if id(inputs[0]) in made else None
        taken.setdefault(site, set()).add(convolution)
        if convolution is not None:
            users.setdefault(convolution, set()).add(site)
        outputs.append(output.clone())  # what comes next may work in place
        given.append((site, output))

    convolutions = [module for module in detector.network.modules() if isinstance(module, nn.Conv2d)]
    handles = [module.register_forward_hook(leave) for module in convolutions]
    handles += [site.register_forward_hook(take) for site in sites]
    image = torch.rand(1, 3, *[PROBE_CELLS * detector.identity.stride] * 2, generator=torch.Generator().manual_seed(0))
    with hooked(handles):
        detector.head_outputs(image.to(next(detector.network.parameters()).device))
    changed = {site for site, output in given if output._version}  # a ResNet adds in place: nothing to measure is left
    producers = {}
    for site, sources in taken.items():
        convolution = next(iter(sources))
        if len(sources) == 1 and convolution is not None and len(users[convolution]) == 1 and site not in changed:
            producers[site] = convolution
    return outputs, producers


def _alike(before: list[Tensor], after: list[Tensor]) -> bool:
    return len(before) == len(after) and all(
        one.shape == other.shape and bool((one - other).norm() <= TOLERANCE * one.norm())
        for one, other in zip(before, after, strict=True)
    )


# Norms are BatchNorm2d or FrozenBatchNorm2d, which share names and not a class.
def _gain(norm: Any) -> Tensor:
    gain: Tensor = (norm.running_var + norm.eps).rsqrt()
    return gain if norm.weight is None else gain * norm.weight.detach()


def _foldable(norm: Any) -> bool:
    size = _gain(norm).abs()
    return bool(size.min() >= SMALLEST_GAIN * size.max())


def _fold_one(convolution: nn.Conv2d, norm: Any) -> FoldedNorm:
    gain = _gain(norm)
    shift = torch.zeros_like(gain) if norm.bias is None else norm.bias.detach().clone()
    weight, bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    convolution.weight, convolution.bias = (nn.Parameter(part.detach(), requires_grad=False) for part in (weight, bias))
    return FoldedNorm(convolution, gain, shift, norm.running_mean, norm.running_var)


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, module)
