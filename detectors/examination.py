"""A last look at a teacher that loaded: whether it computes what its identity says."""

import torch

from detectors.protocol import Detector
from detectors.stored import one_line
from schemas.errors import VerificationError

CELLS = 4
"""Side of the image that is looked at, in cells of the coarsest level: norms over one cell alone have no deviation."""


@torch.no_grad()
def examine(teacher: Detector, device: torch.device) -> None:
    """Look at what a teacher makes of one small grey image.

    Raises:
        VerificationError: its weights or its outputs are not finite, it does not take colour images of that size, or
            its head tells another number of classes apart than it has names.
    """
    for name, tensor in teacher.network.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise VerificationError(f"{name}: holds values beyond single precision; take an earlier checkpoint")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise VerificationError(f"{name}: holds variances below zero (the file is damaged); copy it again")
    side = max(teacher.smallest_input, CELLS * teacher.identity.stride)
    try:
        outputs = teacher.head_outputs(torch.full((1, 3, side, side), 0.5, device=device))
    except Exception as error:  # whatever a network that was put together wrongly makes PyTorch raise
        raise VerificationError(
            f"does not compute on a colour image of {side} x {side} pixels ({type(error).__name__}: {one_line(error)})"
        ) from error
    classes = len(teacher.identity.class_names)
    told = max(logits.shape[1] for logits in outputs.class_logits)  # a first stage tells objects from background alone
    if told < classes:
        raise VerificationError(f"tells {told} classes apart and has {classes} names for them")
    for logits in (*outputs.class_logits, *outputs.box_logits):
        if not bool(logits.isfinite().all()):
            raise VerificationError(
                "gives outputs that are not finite, on a plain grey image; take an earlier checkpoint"
            )
