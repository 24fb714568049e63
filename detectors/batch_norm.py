"""Batch norms of a network, whichever way the library wrote its blocks: which there are, and how they fold away."""

from itertools import pairwise
from typing import Any

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Kinds = tuple[type[Any], ...]
"""Classes of batch norms."""


def batch_norms(network: nn.Module, kinds: Kinds) -> list[nn.Module]:
    """All batch norms, frozen ones too, in the order of definition."""
    return [module for module in network.modules() if isinstance(module, kinds)]


def fold(network: nn.Module, kinds: Kinds) -> None:
    """Fold each batch norm that is defined right after a convolution of as many channels into it, in place.

    torchvision defines them in the order in which they are called.
    """
    for block in network.modules():
        children = list(block.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if not isinstance(conv, nn.Conv2d) or not isinstance(norm, kinds):
                continue
            if conv.out_channels == norm.weight.shape[0]:
                setattr(block, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(block, norm_name, nn.Identity())
    network.requires_grad_(False)
