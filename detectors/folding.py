"""Batch norm folded into the convolutions before it, found by watching one forward pass; any family."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from detectors.protocol import Detector

PROBE_CELLS = 2
"""Side of the image that the forward pass is watched with, in strides of the network."""
SMALLEST_GAIN = 1e-4
"""A batch norm with a channel whose |γ / σ̂| is below this share of its largest is not folded: its statistics could not
be told from the folded output any more."""
TOLERANCE = 1e-3
"""Largest relative difference of folded outputs; more means that a convolution's output is used elsewhere too."""


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


def fold(detector: Detector, sites: list[nn.Module]) -> list[FoldedNorm | nn.Module]:
    """Fold those of the batch norms `sites` that follow a convolution, in place; the function stays the same.

    Returns:
        For each site what it was folded into, or itself where it was not; in the order of `sites`.
    """
    network = detector.network
    image = torch.rand(1, 3, *[PROBE_CELLS * detector.identity.stride] * 2, generator=torch.Generator().manual_seed(0))
    image = image.to(next(network.parameters()).device)
    before, producers = _watched(detector, sites, image)
    found: list[FoldedNorm | nn.Module] = []
    undo: list[tuple[nn.Conv2d, nn.Parameter, nn.Parameter | None, str, nn.Module]] = []
    names = {module: name for name, module in network.named_modules()}
    for site in sites:
        convolution = producers.get(site)
        if convolution is None or not _foldable(site):
            found.append(site)
            continue
        undo.append((convolution, convolution.weight, convolution.bias, names[site], site))
        found.append(_fold_one(convolution, site))
        _replace(network, names[site], nn.Identity())
    if undo and not _alike(before, _outputs(detector, image)):
        for convolution, weight, bias, name, site in undo:
            convolution.weight, convolution.bias = weight, bias
            _replace(network, name, site)
        return list(sites)
    return found


def _watched(
    detector: Detector, sites: list[nn.Module], image: Tensor
) -> tuple[list[Tensor], dict[nn.Module, nn.Conv2d]]:
    """Outputs of one forward pass, and the convolution whose output each site took, where that was so every time."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensor is kept, so that its id stays its own
    taken: dict[nn.Module, set[nn.Conv2d | None]] = {}
    users: dict[nn.Conv2d, set[nn.Module]] = {}

    def leave(module: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made[id(output)] = (module, output)

    def take(site: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        convolution = made.get(id(inputs[0]), (None, None))[0]
        taken.setdefault(site, set()).add(convolution)
        if convolution is not None:
            users.setdefault(convolution, set()).add(site)

    convolutions = [module for module in detector.network.modules() if isinstance(module, nn.Conv2d)]
    handles = [module.register_forward_hook(leave) for module in convolutions]
    handles += [site.register_forward_pre_hook(take) for site in sites]
    try:
        outputs = _outputs(detector, image)
    finally:
        for handle in handles:
            handle.remove()
    producers = {}
    for site, sources in taken.items():
        convolution = next(iter(sources))
        if len(sources) == 1 and convolution is not None and len(users[convolution]) == 1:
            producers[site] = convolution
    return outputs, producers


@torch.no_grad()
def _outputs(detector: Detector, image: Tensor) -> list[Tensor]:
    outputs = detector.head_outputs(image)
    return [*outputs.class_logits, *outputs.box_logits]


def _alike(before: list[Tensor], after: list[Tensor]) -> bool:
    return all(
        one.shape == other.shape and bool((one - other).norm() <= TOLERANCE * one.norm())
        for one, other in zip(before, after, strict=True)
    )


def _gain(norm: nn.Module) -> Tensor:
    gain: Tensor = (norm.running_var + _epsilon(norm)).rsqrt()  # type: ignore[operator]
    return gain if norm.weight is None else gain * norm.weight.detach()


def _epsilon(norm: nn.Module) -> float:
    return float(norm.eps)  # type: ignore[arg-type]


def _foldable(norm: nn.Module) -> bool:
    size = _gain(norm).abs()
    return bool(size.min() >= SMALLEST_GAIN * size.max())


def _fold_one(convolution: nn.Conv2d, norm: nn.Module) -> FoldedNorm:
    gain = _gain(norm)
    shift = torch.zeros_like(gain) if norm.bias is None else norm.bias.detach().clone()  # type: ignore[operator]
    weight, bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, _epsilon(norm),  # type: ignore[arg-type]
        norm.weight, norm.bias,  # type: ignore[arg-type]
    )  # fmt: skip
    convolution.weight, convolution.bias = (nn.Parameter(part.detach(), requires_grad=False) for part in (weight, bias))
    return FoldedNorm(convolution, gain, shift, norm.running_mean, norm.running_var)  # type: ignore[arg-type]


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, module)
