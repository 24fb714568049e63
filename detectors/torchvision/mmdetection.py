"""Weights of MMDetection's Mask R-CNN with a Swin backbone, under the names and in the order that torchvision has.

The two libraries compute the same in other words. Three things differ in more than name: patch merging unfolds its four
neighbours channel by channel there and position by position here; classes put the background last there and first here;
and there a box of the background has no outputs.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from detectors.torchvision.models import PUBLISHED
from schemas.errors import InputError

NAMES = (
    (r"backbone\.patch_embed\.projection\.", "backbone.body.0.0."),
    (r"backbone\.patch_embed\.norm\.", "backbone.body.0.2."),
    (r"backbone\.norm(\d)\.", r"backbone.norms.\1."),
    (r"neck\.lateral_convs\.(\d)\.conv\.", r"backbone.fpn.inner_blocks.\1.0."),
    (r"neck\.fpn_convs\.(\d)\.conv\.", r"backbone.fpn.layer_blocks.\1.0."),
    (r"rpn_head\.rpn_conv\.", "rpn.head.conv.0.0."),
    (r"rpn_head\.rpn_cls\.", "rpn.head.cls_logits."),
    (r"rpn_head\.rpn_reg\.", "rpn.head.bbox_pred."),
    (r"roi_head\.bbox_head\.shared_fcs\.0\.", "roi_heads.box_head.fc6."),
    (r"roi_head\.bbox_head\.shared_fcs\.1\.", "roi_heads.box_head.fc7."),
    (r"roi_head\.bbox_head\.fc_cls\.", "roi_heads.box_predictor.cls_score."),
    (r"roi_head\.bbox_head\.fc_reg\.", "roi_heads.box_predictor.bbox_pred."),
    (r"roi_head\.mask_head\.convs\.(\d)\.conv\.", r"roi_heads.mask_head.\1.0."),
    (r"roi_head\.mask_head\.upsample\.", "roi_heads.mask_predictor.conv5_mask."),
    (r"roi_head\.mask_head\.conv_logits\.", "roi_heads.mask_predictor.mask_fcn_logits."),
)
BLOCK = re.compile(r"backbone\.stages\.(\d)\.(?:blocks\.(\d+)|downsample)\.(.+)")
IN_BLOCK = (("attn.w_msa.", "attn."), ("ffn.layers.0.0.", "mlp.0."), ("ffn.layers.1.", "mlp.3."))
NEIGHBOURS = (0, 2, 1, 3)
"""Where each neighbour of torchvision's order (upper left, lower left, upper right, lower right) stands in
MMDetection's, which goes row by row."""


def is_mmdetection(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dictionary has the key layout of such a detector."""
    return any(name.startswith("backbone.stages.") for name in state)


def published_name(state: Mapping[str, Tensor]) -> str:
    """Swin-T or Swin-S, by the depth of the third stage.

    Raises:
        InputError: neither.
    """
    depth = len({match[2] for match in map(BLOCK.fullmatch, state) if match and match[1] == "2" and match[2]})
    for name, model in PUBLISHED.items():
        if model.backbone is not None and model.backbone.blocks[2] == depth:
            return name
    raise InputError(f"a Swin backbone with {depth} blocks in its third stage is neither Swin-T (6) nor Swin-S (18)")


def converted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights for a network of `detectors.torchvision.models`.

    Raises:
        InputError: a name is not of this layout, or its relative positions are counted in another way.
    """
    made: dict[str, Tensor] = {}
    for name, value in state.items():
        new = torchvision_name(name)
        if name.endswith("relative_position_index"):
            side = round(value.shape[0] ** 0.5) if value.dim() else 0
            if value.numel() != side**4 or not torch.equal(value.flatten(), relative_positions(side)):
                raise InputError(f"{name}: counts the positions in a window in an order that is not MMDetection's")
            value = value.flatten()
        elif ".downsample." in name:
            value = merged_as_torchvision(value)
        elif ".fc_cls." in name:
            value = torch.cat((value[-1:], value[:-1]))
        elif ".fc_reg." in name:
            value = torch.cat((torch.zeros_like(value[:4]), value))
        elif ".conv_logits." in name:
            value = torch.cat((torch.zeros_like(value[:1]), value))
        made[new] = value
    return made


def torchvision_name(name: str) -> str:
    """What torchvision calls a parameter.

    Raises:
        InputError: MMDetection's Mask R-CNN with a Swin backbone has no such parameter.
    """
    match = BLOCK.fullmatch(name)
    if match:
        stage, block, rest = match.groups()
        for theirs, ours in IN_BLOCK if block else ():
            if rest.startswith(theirs):
                rest = ours + rest.removeprefix(theirs)
        place = 2 * int(stage) + 1
        return f"backbone.body.{place}.{block}.{rest}" if block else f"backbone.body.{place + 1}.{rest}"
    for pattern, replacement in NAMES:
        if re.match(pattern, name):
            return re.sub(f"^{pattern}", replacement, name)
    raise InputError(f"{name[:80]!r} is no parameter of MMDetection's Mask R-CNN with a Swin backbone")


def merged_as_torchvision(value: Tensor) -> Tensor:
    """The last dimension of patch merging's norm or reduction, `(..., 4C)`, from channel-major to position-major."""
    by_channel = value.unflatten(-1, (-1, 4))  # (..., C, 4)
    return by_channel[..., list(NEIGHBOURS)].transpose(-1, -2).flatten(-2)


def relative_positions(side: int) -> Tensor:
    """Row of the bias table for each pair of tokens of a square window, `(side⁴,)`."""
    rows = torch.arange(side).repeat_interleave(side)
    columns = torch.arange(side).repeat(side)
    down, right = (each[:, None] - each + side - 1 for each in (rows, columns))
    return (down * (2 * side - 1) + right).flatten()
