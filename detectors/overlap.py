"""How much boxes overlap, by torchvision, which is loaded when it is first asked.

It loads PyTorch's compiler with it, which takes seconds; the checks before a run need neither.
"""

from torch import Tensor


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of every box `(N, 4)` with every other `(M, 4)`, corners: `(N, M)` in [0, 1]."""
    from torchvision.ops import box_iou as intersection_over_union

    overlap: Tensor = intersection_over_union(boxes, others)
    return overlap
