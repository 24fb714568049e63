"""Boxes of a calibration set, as the formats of other tools want them."""

from schemas.labels import BoxLabel, ImageLabels

Box = tuple[float, float, float, float]
"""x, y, w, h in pixels."""


def boxes_inside(labels: ImageLabels) -> list[tuple[BoxLabel, Box]]:
    """Each label with its [x, y, w, h], cut at the edges: those of a set may stand out by half a pixel."""
    boxes = []
    for box in labels.boxes:
        x, y, w, h = box.bbox
        left, top = max(x, 0.0), max(y, 0.0)
        right, bottom = min(x + w, float(labels.width)), min(y + h, float(labels.height))
        if right > left and bottom > top:
            boxes.append((box, (left, top, right - left, bottom - top)))
    return boxes
