"""Non-maximum suppression and pooling of regions as operators whose outputs have a size that values do not change.

Networks that are exported compute with them: a tracer sees one operator each, and `quantization.onnx.regions` says
what stands for it in a file.
"""

import torch
from torch import Tensor

NAMESPACE = "zsq"
REMOVED = -1.0
"""Score of a box that was suppressed or is not there; all others are at least 0."""
POINTS = 2
"""Points along a side of a cell of a pooled region, in torchvision's networks."""


@torch.library.custom_op(f"{NAMESPACE}::keep_best", mutates_args=())
def keep_best(boxes: Tensor, scores: Tensor, iou: float, lowest: float, most: int) -> Tensor:
    """Scores after greedy suppression of each group on its own: `REMOVED` where a box is not left.

    Args:
        boxes: `(G, N, 4)` corners, pixels.
        scores: `(G, N)`.
        iou: highest overlap of two boxes that are left.
        lowest: boxes must score more.
        most: boxes of a group that are left at most.

    Returns:
        `(G, N)`.
    """
    from torchvision.ops import nms

    kept = torch.full_like(scores, REMOVED)
    for group, (corners, sure) in enumerate(zip(boxes, scores, strict=True)):
        there = torch.nonzero(sure > lowest).flatten()
        left = there[nms(corners[there], sure[there], iou)[:most]]
        kept[group, left] = sure[left]
    return kept


@keep_best.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float, lowest: float, most: int) -> Tensor:
    return torch.empty_like(scores)


@torch.library.custom_op(f"{NAMESPACE}::pool_levels", mutates_args=())
def pool_levels(
    features: list[Tensor], regions: Tensor, levels: Tensor, scales: list[float], side: int, aligned: bool
) -> Tensor:
    """What RoIAlign takes from the level of a feature pyramid that each region belongs to.

    Args:
        features: `(B, C, h, w)` of each level.
        regions: `(R, 5)`: which image, and corners in its pixels.
        levels: `(R,)` int64: which level.
        scales: cells per pixel of each level.
        side: cells along a side of what is taken.
        aligned: as Detectron2 and MMDetection have it: pixels have an extent, their centres lie half a pixel inside,
            and a cell has as many points as the level has cells there. Else it has `POINTS` along a side.

    Returns:
        `(R, C, side, side)`.
    """
    from torchvision.ops import roi_align

    pooled = features[0].new_zeros(len(regions), features[0].shape[1], side, side)
    for number, (feature, scale) in enumerate(zip(features, scales, strict=True)):
        mine = torch.nonzero(levels == number).flatten()
        pooled[mine] = roi_align(feature, regions[mine], side, scale, points_of(aligned), aligned)
    return pooled


@pool_levels.register_fake
def _(features: list[Tensor], regions: Tensor, levels: Tensor, scales: list[float], side: int, aligned: bool) -> Tensor:
    return features[0].new_empty(regions.shape[0], features[0].shape[1], side, side)


def points_of(aligned: bool) -> int:
    """The sampling ratio of RoIAlign; 0 is as many as needed."""
    return 0 if aligned else POINTS
