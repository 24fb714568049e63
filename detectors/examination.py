"""A last look at a detector that loaded: whether it computes what its identity says."""

import math

import torch
from torch import Tensor

from detectors.protocol import Detector, HeadOutputs
from detectors.stored import one_line
from schemas.errors import VerificationError

CELLS = 4
"""Side of the image that is looked at, in cells of the coarsest level: norms over one cell alone have no deviation."""
LARGEST_WEIGHT = 1e12
"""Larger numbers than any training leaves: in a few layers, products of such leave single precision."""
LOOKS = ("a plain grey image", "noise")
"""What is looked at. Much of a network does nothing on the first, and does something on the second."""


@torch.no_grad()
def examine(detector: Detector, device: torch.device) -> None:
    """Look at what a detector makes of two small images: plain grey, and noise.

    Raises:
        VerificationError: its weights or its outputs are not finite, it does not take colour images of that size, or
            its head tells another number of classes apart than it has names.
    """
    for name, tensor in detector.network.state_dict().items():
        if (odd := oddity(name, tensor)) is not None:
            raise VerificationError(f"{name}: holds {odd}; take an earlier checkpoint, or copy the file again")
    outputs = _outputs(detector, device)
    classes = len(detector.identity.class_names)
    told = max(logits.shape[1] for logits in outputs.class_logits)  # a first stage tells objects from background alone
    if told < classes:
        raise VerificationError(f"tells {told} classes apart and has {classes} names for them")
    for logits in (*outputs.class_logits, *outputs.box_logits):
        for look, of_image in zip(LOOKS, logits, strict=True):
            if not bool(of_image.isfinite().all()):
                raise VerificationError(f"gives outputs that are not finite, on {look}; take an earlier one")


def _outputs(detector: Detector, device: torch.device) -> HeadOutputs:
    """What a detector makes of the two images.

    Raises:
        VerificationError: it does not compute on them.
    """
    side = CELLS * detector.identity.stride
    try:
        side = max(detector.smallest_input, side)
        noise = torch.rand(3, side, side, generator=torch.Generator().manual_seed(1))
        return detector.head_outputs(torch.stack((torch.full_like(noise, 0.5), noise)).to(device))
    except Exception as error:  # whatever a network that was put together wrongly makes PyTorch raise
        raise VerificationError(
            f"does not compute on a colour image of {side} x {side} pixels ({type(error).__name__}: {one_line(error)})"
        ) from error


def oddity(name: str, tensor: Tensor) -> str | None:
    """What is odd about the numbers of a stored tensor: what no training leaves; None where nothing is.

    Args:
        name: of the tensor in the network.
        tensor: of any type; integers are never odd.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return None
    largest = float(tensor.abs().amax())
    if not math.isfinite(largest):
        return "values that are not finite"
    if largest > LARGEST_WEIGHT:
        return f"values that no training leaves ({largest:.0e})"
    return "variances below zero" if name.endswith("running_var") and bool((tensor < 0).any()) else None
