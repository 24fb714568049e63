"""Which anchors of a head look at which object, and what they decode to; shared by the heads that see shapes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detectors.detections import Detections
from detectors.overlap import box_iou

CLOSE = 0.5
"""IoU from which an anchor's box is taken for the object's: its shape is then the object's too."""


def best_anchors(boxes: Tensor, scores: Tensor, label: Detections) -> tuple[Tensor, Tensor]:
    """The anchor that sees each object best, and how much its box overlaps the object's, `(N,)` each.

    As the library assigns objects: by the class's score and the overlap, which counts for much more.

    Args:
        boxes: `(A, 4)` corners in pixels.
        scores: `(C, A)` in [0, 1].
        label: the N objects.
    """
    overlap = box_iou(label.boxes.to(boxes), boxes)
    alignment = scores[label.classes.to(scores.device)].sqrt() * overlap.pow(6)
    best = alignment.argmax(dim=1)
    return best, overlap.gather(1, best[:, None])[:, 0]


def confident_anchors(class_logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The anchors of an image with the highest class probabilities, and these, `(B, K)` each."""
    confidence = class_logits.detach().sigmoid().amax(dim=1)
    best = confidence.topk(min(count, confidence.shape[1]), dim=1)
    return best.indices, best.values


def corners(rows: Tensor, end_to_end: bool) -> Tensor:
    """Corners `(B, A, 4)` in pixels of decoded rows `(B, A, ...)`, which are centres and sizes before NMS."""
    if end_to_end:
        return rows[..., :4]
    centres, halves = rows[..., :2], rows[..., 2:4] / 2
    return torch.cat((centres - halves, centres + halves), dim=2)


def at_places(values: Tensor, places: Tensor) -> Tensor:
    """`(B, E, K)` of values `(B, E, A)` at anchors `(B, K)`."""
    return values.gather(2, places[:, None].expand(-1, values.shape[1], -1))


def branch_names(raw: dict[str, Any]) -> Sequence[str]:
    """The branches of raw outputs that have names."""
    return [name for name in ("one2many", "one2one") if name in raw]


def branches(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """The branches of raw outputs."""
    return [raw[name] for name in branch_names(raw)] or [raw]
