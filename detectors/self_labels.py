"""A detector's own confident detections in the place of labels: what agreement with it is measured against."""

from collections.abc import Sequence

from detectors.detections import Detections


def self_labels(found: Sequence[Detections], confidence: float) -> tuple[list[Detections], float]:
    """The detections of each image that stand for objects, and the lowest score that one has.

    Where none of all images reaches `confidence`, a score of half the highest is enough: a detector that is never sure
    can be agreed with too. Boxes without area are left out.

    Args:
        found: of the full-precision detector, image by image.
        confidence: lowest score, in (0, 1).
    """
    highest = max((float(each.scores.max()) for each in found if len(each)), default=0.0)
    lowest = confidence if highest >= confidence else highest / 2
    labels = []
    for each in found:
        width, height = (each.boxes[:, 2:] - each.boxes[:, :2]).unbind(dim=1)
        objects = each.select((each.scores >= lowest) & (width > 0) & (height > 0))
        labels.append(Detections.of(objects.boxes, objects.classes, shapes=objects.shapes))
    return labels, lowest
