"""What stands in an ONNX file for the operators of `detectors.regions`: NonMaxSuppression and RoiAlign."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import INT64, opset18

from detectors.regions import REMOVED, points_of

op: Any = opset18
"""What PyTorch's own translations are written in; the exporter converts to the opset that is asked for."""


def keep_best_in_onnx(boxes: Any, scores: Any, iou: float, lowest: float, most: int) -> Any:
    """Rows of the boxes that are left, and their scores scattered over a tensor in which all others are `REMOVED`."""
    of_one_class = op.Unsqueeze(scores, [1])
    # One row [group, class, box] for each box that is left.
    rows = op.NonMaxSuppression(boxes, of_one_class, op.Constant(value_ints=[most]), iou, lowest)
    nothing = op.Expand(op.Constant(value_float=REMOVED), op.Shape(of_one_class))
    return op.Squeeze(op.ScatterND(nothing, rows, op.GatherND(of_one_class, rows)), [1])


def pool_levels_in_onnx(
    features: Sequence[Any], regions: Any, levels: Any, scales: Sequence[float], side: int, aligned: bool
) -> Any:
    """The regions of one level after another, and back into their order."""
    image = op.Cast(op.Squeeze(op.Slice(regions, [0], [1], [1]), [1]), to=INT64.dtype)
    corners = op.Slice(regions, [1], [5], [1])
    order, pooled = [], []
    for number, (feature, scale) in enumerate(zip(features, scales, strict=True)):
        mine = op.Reshape(op.NonZero(op.Equal(levels, op.Constant(value_int=number))), [-1])
        order.append(mine)
        pooled.append(
            op.RoiAlign(
                feature,
                op.Gather(corners, mine),
                op.Gather(image, mine),
                coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
                output_height=side,
                output_width=side,
                sampling_ratio=points_of(aligned),
                spatial_scale=scale,
            )
        )
    if len(pooled) == 1:
        return pooled[0]
    places = op.Concat(*order, axis=0)
    count = op.Squeeze(op.Shape(places), [0])
    back = op.ScatterElements(places, places, op.Range(0, count, 1))
    return op.Gather(op.Concat(*pooled, axis=0), back)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.zsq.keep_best.default: keep_best_in_onnx,
    torch.ops.zsq.pool_levels.default: pool_levels_in_onnx,
}
"""For `torch.onnx.export`, by operator."""
