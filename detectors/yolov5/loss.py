"""The detection loss of YOLOv5, written from its definition: no library here has it.

Boxes by complete IoU (arXiv 1911.08287), objectness towards that IoU, classes by binary cross-entropy. An object is
assigned by shape and place alone, so gradients depend on no other anchor's prediction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from ultralytics.utils.metrics import bbox_iou

from detectors.detections import Detections
from detectors.yolov5.network import AnchorHead

BALANCE = {3: (4.0, 1.0, 0.4)}
"""Weights of objectness by level, finest first: finer ones have more cells."""
SMALLEST_SIDE = 1e-3
"""Of a decoded box, in cells: the aspect ratio of a box without sides has no gradient."""
BALANCE_MORE_LEVELS = (4.0, 1.0, 0.25, 0.06, 0.02)


@dataclass(frozen=True)
class Gains:
    """Settings of the loss; a checkpoint stores them as they were in training, scaled to its levels and classes.

    Attributes:
        box: weight of the box term.
        objectness: weight of the objectness term.
        classes: weight of the class term.
        anchor_ratio: an object goes to the anchors whose width and height differ from its own by less than this factor.
        object_weight: weight of positive against negative objectness.
        class_weight: weight of positive against negative classes.
        smoothing: of the class targets.
    """

    box: float
    objectness: float
    classes: float
    anchor_ratio: float = 4.0
    object_weight: float = 1.0
    class_weight: float = 1.0
    smoothing: float = 0.0

    @classmethod
    def default(cls, levels: int, classes: int, image_size: int) -> "Gains":
        """The repository's settings for training from scratch, scaled as its training script does."""
        share = 3 / levels
        return cls(0.05 * share, (image_size / 640) ** 2 * share, 0.5 * classes / 80 * share)


@dataclass(frozen=True)
class Assigned:
    """Objects of one level, each with an anchor of a cell that has to find it; M in all.

    Attributes:
        image: `(M,)` index in the batch.
        anchor: `(M,)` index of the anchor.
        row: `(M,)` of the cell.
        column: `(M,)` of the cell.
        boxes: `(M, 4)` centre relative to the cell, width and height, in cells.
        classes: `(M,)`.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    boxes: Tensor
    classes: Tensor


def detection_loss(head: AnchorHead, raw: Sequence[Tensor], labels: Sequence[Detections], gains: Gains) -> Tensor:
    """Box + objectness + class terms, a scalar: means over what is assigned, and over all cells.

    Args:
        head: with its anchors.
        raw: its logits, `(B, A, H, W, 5 + C)` of each level.
        labels: of each image, boxes in pixels.
        gains: settings.
    """
    zero = raw[0].new_zeros(())
    box, objectness, classes = zero, zero, zero
    balance = BALANCE.get(len(raw), BALANCE_MORE_LEVELS)
    positive = raw[0].new_tensor([gains.object_weight]), raw[0].new_tensor([gains.class_weight])
    decoded = head.boxes(list(raw))
    for level, (logits, boxes, anchors) in enumerate(zip(raw, decoded, head.anchors, strict=True)):
        found = assign(labels, anchors, head.strides[level], logits.shape[2], logits.shape[3], gains.anchor_ratio)
        place = found.image, found.anchor, found.row, found.column
        wanted = logits.new_zeros(logits.shape[:-1])
        if len(found.image):
            centres, sides = boxes[place].split(2, dim=1)
            guessed = torch.cat((centres, sides.clamp(min=SMALLEST_SIDE)), dim=1)
            overlap = bbox_iou(guessed, found.boxes, CIoU=True).squeeze(-1)
            box = box + (1 - overlap).mean()
            # Where several objects want one anchor of one cell, the best IoU counts, in any order of the labels; the
            # original lets the last one count.
            index = found.image
            for part, size in zip(place[1:], logits.shape[1:4], strict=True):
                index = index * size + part
            wanted.view(-1).scatter_reduce_(0, index, overlap.detach().clamp(min=0).to(wanted), "amax")
            if head.classes > 1:
                target = torch.full_like(logits[place][:, 5:], gains.smoothing / 2)
                target.scatter_(1, found.classes[:, None], 1 - gains.smoothing / 2)
                classes = classes + F.binary_cross_entropy_with_logits(
                    logits[place][:, 5:], target, pos_weight=positive[1]
                )
        objectness = objectness + balance[level] * F.binary_cross_entropy_with_logits(
            logits[..., 4], wanted, pos_weight=positive[0]
        )
    return gains.box * box + gains.objectness * objectness + gains.classes * classes


def assign(
    labels: Sequence[Detections], anchors: Tensor, stride: int, height: int, width: int, ratio: float
) -> Assigned:
    """Which anchors of which cells have to find which objects, on one level.

    An object goes to every anchor of similar shape, in the cell of its centre and in the two neighbours that the centre
    is nearest to, where there are any.

    Args:
        labels: of each image, boxes in pixels.
        anchors: `(A, 2)`, in cells.
        stride: pixels per cell.
        height: of the level, in cells.
        width: likewise.
        ratio: largest factor between sides of object and anchor.
    """
    device = anchors.device
    image = torch.cat([torch.full((len(label),), number, device=device) for number, label in enumerate(labels)])
    corners = torch.cat([label.boxes for label in labels]).to(anchors) / stride
    classes = torch.cat([label.classes for label in labels]).to(device)
    centres, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]

    factor = sides[None] / anchors[:, None]  # (A, N, 2)
    similar = torch.maximum(factor, 1 / factor).amax(dim=2) < ratio
    anchor, chosen = similar.nonzero(as_tuple=True)
    centres = centres[chosen]

    inside = centres % 1
    limits = centres.new_tensor([width, height])
    before = (inside < 0.5) & (centres > 1)
    after = (inside > 0.5) & (centres < limits - 1)
    here = torch.ones(len(centres), dtype=torch.bool, device=device)
    near = torch.stack((here, before[:, 0], before[:, 1], after[:, 0], after[:, 1]))  # (5, M)
    steps = centres.new_tensor([[0, 0], [-1, 0], [0, -1], [1, 0], [0, 1]])
    neighbour, index = near.nonzero(as_tuple=True)
    cells = centres[index].floor() + steps[neighbour]
    # A centre on the far edge of the image belongs to the last cell.
    cells = torch.minimum(cells.clamp(min=0), limits - 1)
    chosen = chosen[index]
    return Assigned(
        image=image[chosen],
        anchor=anchor[index],
        row=cells[:, 1].long(),
        column=cells[:, 0].long(),
        boxes=torch.cat((centres[index] - cells, sides[chosen]), dim=1),
        classes=classes[chosen],
    )
