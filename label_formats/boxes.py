"""Boxes of a calibration set, as the formats of other tools want them."""

from schemas.labels import ImageLabels

Box = tuple[float, float, float, float]
"""x, y, w, h in pixels."""


def boxes_inside(labels: ImageLabels) -> list[tuple[int, Box]]:
    """Class index and [x, y, w, h] of each box, cut at the edges: those of a set may stand out by half a pixel."""
    boxes = []
    for box in labels.boxes:
        x, y, w, h = box.bbox
        left, top = max(x, 0.0), max(y, 0.0)
        right, bottom = min(x + w, float(labels.width)), min(y + h, float(labels.height))
        if right > left and bottom > top:
            boxes.append((box.category_id, (left, top, right - left, bottom - top)))
    return boxes
