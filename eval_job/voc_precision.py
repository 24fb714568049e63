"""Average precision by the two definitions of Pascal VOC.

pycocotools, torchvision and Ultralytics have neither the 11-point definition nor VOC's matching and `difficult`
objects, so both are written here from the development kit's description (Everingham et al., IJCV 2010 and 2015).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detectors.detections import Detections
from detectors.overlap import box_iou
from schemas.evaluation import VocPrecision

OVERLAP = 0.5
"""Lowest IoU of a detection with the object it finds."""


def voc_precision(
    truth: Sequence[Detections],
    predictions: Sequence[Detections],
    class_names: Sequence[str],
    difficult: Sequence[Sequence[bool]],
) -> VocPrecision | None:
    """AP50 of predictions against labels, image by image; None where there is no object to find.

    Args:
        truth: labels of each image.
        predictions: scored predictions of each image, in the pixels of its labels.
        class_names: name of each class index.
        difficult: whether each label neither counts nor hurts.
    """
    eleven_point: dict[str, float] = {}
    all_point: dict[str, float] = {}
    for category, name in enumerate(class_names):
        masks = [label.classes == category for label in truth]
        labels = [label.select(mask) for label, mask in zip(truth, masks, strict=True)]
        hard = [np.array(flags, dtype=np.bool_)[mask.numpy()] for flags, mask in zip(difficult, masks, strict=True)]
        objects = sum(int((~flags).sum()) for flags in hard)
        if not objects:
            continue
        found = [each.select(each.classes == category) for each in predictions]
        recall, precision = _curve(labels, found, hard, objects)
        eleven_point[name] = eleven_point_precision(recall, precision)
        all_point[name] = all_point_precision(recall, precision)
    if not all_point:
        return None
    return VocPrecision(
        eleven_point=float(np.mean(list(eleven_point.values()))),
        all_point=float(np.mean(list(all_point.values()))),
        per_class=all_point,
    )


def eleven_point_precision(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Mean over recall 0, 0.1, ..., 1 of the highest precision at that recall or above (VOC 2007).

    Args:
        recall: `(D,)`, rising, after each detection, best first.
        precision: `(D,)` likewise.
    """
    levels = [precision[recall >= level - 1e-9] for level in np.linspace(0, 1, 11)]
    return float(np.mean([reached.max() if len(reached) else 0.0 for reached in levels]))


def all_point_precision(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Area under the curve, at each recall the highest precision at that recall or above (VOC 2010 and later)."""
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * highest).sum())


def _curve(
    labels: Sequence[Detections], found: Sequence[Detections], hard: Sequence[NDArray[np.bool_]], objects: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and precision after each detection of a class that counts, best first over all images.

    A detection belongs to the object it overlaps most, whether another has found that one or not: a second detection of
    an object is wrong, where COCO would let it find the next best one.
    """
    scores = np.concatenate([each.scores.double().cpu().numpy() for each in found])
    images = np.concatenate([np.full(len(each), n) for n, each in enumerate(found)]).astype(int)
    boxes = np.concatenate([np.arange(len(each)) for each in found]).astype(int)
    overlaps = [
        box_iou(each.boxes.double().cpu(), label.boxes.double()).numpy()
        for each, label in zip(found, labels, strict=True)
    ]
    taken = [np.zeros(len(label), dtype=np.bool_) for label in labels]
    right: list[bool] = []
    for position in np.argsort(-scores, kind="stable"):
        image = images[position]
        overlap = overlaps[image][boxes[position]]
        nearest = int(overlap.argmax()) if len(overlap) else -1
        if nearest < 0 or overlap[nearest] < OVERLAP:
            right.append(False)
        elif not hard[image][nearest]:
            right.append(not taken[image][nearest])
            taken[image][nearest] = True
    hits = np.cumsum(right, dtype=np.float64)
    return hits / objects, hits / np.arange(1, len(right) + 1)
