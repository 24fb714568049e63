"""Batch norms of a network, whichever way the library wrote its blocks: which there are, and how they fold away."""

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import FrozenBatchNorm2d

BATCH_NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """All batch norms, frozen ones too, in the order of definition."""
    return [module for module in network.modules() if isinstance(module, BATCH_NORMS)]


def fold(network: nn.Module) -> None:
    """Fold each batch norm that is defined right after a convolution of as many channels into it, in place.

    torchvision defines them in the order in which they are called.
    """
    for block in network.modules():
        children = list(block.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if not isinstance(conv, nn.Conv2d) or not isinstance(norm, BATCH_NORMS):
                continue
            if conv.out_channels == norm.weight.shape[0]:
                setattr(block, conv_name, fuse_conv_bn_eval(conv, norm))  # type: ignore[type-var]
                setattr(block, norm_name, nn.Identity())
    network.requires_grad_(False)
