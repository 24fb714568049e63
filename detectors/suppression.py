"""Non-maximum suppression of boxes and their scores, by torchvision."""

import torch
from torch import Tensor

from detectors.detections import Detections
from detectors.protocol import Suppression

MAX_CANDIDATES = 5000
"""Boxes of an image, best first, that NMS looks at."""


def best_boxes(boxes: Tensor, scores: Tensor, limits: Suppression, iou: float) -> Detections:
    """The boxes of an image that NMS within each class leaves, best first.

    Args:
        boxes: `(A, 4)`, or `(A, C, 4)` with a box for each class; corners, pixels.
        scores: `(A, C)`.
        limits: what is left.
        iou: highest overlap of two boxes of a class where `limits` does not say it.
    """
    from torchvision.ops import batched_nms

    if boxes.dim() == 2:
        boxes = boxes[:, None].expand(-1, scores.shape[1], -1)
    if limits.multi_label:
        anchor, category = torch.nonzero(scores > limits.confidence, as_tuple=True)
    else:
        best, category = scores.max(dim=1)
        anchor = torch.nonzero(best > limits.confidence).flatten()
        category = category[anchor]
    found, chosen = scores[anchor, category], boxes[anchor, category]
    if len(found) > MAX_CANDIDATES:
        found, order = found.topk(MAX_CANDIDATES)
        chosen, category = chosen[order], category[order]
    overlap = iou if limits.iou is None else limits.iou
    kept = batched_nms(chosen, found, category, overlap)[: limits.max_detections]
    return Detections.of(chosen[kept], category[kept], found[kept])
