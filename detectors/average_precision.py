"""COCO mean average precision, with pycocotools as the referee."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectors.detections import Detections
from schemas.calibration_set import AveragePrecision

PER_IMAGE = 100
"""Detections of one image that count, the COCO limit."""


def average_precision(
    truth: Sequence[Detections],
    predictions: Sequence[Detections],
    class_names: Sequence[str],
    crowd: Sequence[Sequence[bool]] | None = None,
) -> tuple[AveragePrecision, dict[str, float]]:
    """COCO average precision of predictions against labels, image by image.

    Args:
        truth: labels of each image.
        predictions: scored predictions of each image, in the pixels of its labels.
        class_names: name of each class index.
        crowd: whether each label is a COCO crowd region; None for no crowds.

    Returns:
        The summary, and AP50-95 of each class that has a label.
    """
    truth_coco = COCO()
    truth_coco.dataset = _ground_truth(truth, class_names, crowd)
    with contextlib.redirect_stdout(io.StringIO()):
        truth_coco.createIndex()
        evaluation = COCOeval(truth_coco, _results(truth_coco, predictions), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class), all areas, 100 per image
    counted = {category for label in truth for category in label.classes.tolist()}
    per_class = {
        class_names[category]: float(np.mean(precision[:, :, category]))
        for category in sorted(counted)
        if precision[:, :, category].min() >= 0  # -1 where every label is a crowd region
    }
    names = ("map50_95", "map50", "map75", "map_small", "map_medium", "map_large")
    summary = dict(zip(names, (float(value) for value in evaluation.stats[:6]), strict=True))
    return AveragePrecision(**summary), per_class


def coco_results(
    predictions: Sequence[Detections], image_ids: Sequence[int], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Predictions in the COCO results format; `category_ids` maps class indices to the ids to write."""
    return [
        {
            "image_id": image,
            "category_id": category_ids[category],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for image, found in zip(image_ids, predictions, strict=True)
        for (x1, y1, x2, y2), category, score in zip(
            found.boxes.tolist(), found.classes.tolist(), found.scores.tolist(), strict=True
        )
    ]


def _ground_truth(
    truth: Sequence[Detections], class_names: Sequence[str], crowd: Sequence[Sequence[bool]] | None
) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, label in enumerate(truth):
        for number, ((x1, y1, x2, y2), category) in enumerate(
            zip(label.boxes.tolist(), label.classes.tolist(), strict=True)
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": category,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(crowd[image][number]) if crowd else 0,
                }
            )
    return {
        "info": {},
        "images": [{"id": image} for image in range(len(truth))],
        "categories": [{"id": index, "name": name} for index, name in enumerate(class_names)],
        "annotations": annotations,
    }


def _results(truth: COCO, predictions: Sequence[Detections]) -> COCO:
    rows = coco_results(predictions, range(len(predictions)), range(100_000))
    if rows:
        return truth.loadRes(rows)
    empty = COCO()
    empty.dataset = truth.dataset | {"annotations": []}
    empty.createIndex()
    return empty
