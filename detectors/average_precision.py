"""COCO mean average precision, with pycocotools as the referee."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectors.detections import Detections
from schemas.calibration_set import AveragePrecision
from schemas.evaluation import PrecisionRecall

PER_IMAGE = 100
"""Detections of one image that count, the COCO limit."""
SIZES = ("small", "medium", "large")
"""Area ranges of COCO after the first one, which is all areas."""


@dataclass(frozen=True)
class BoxEvaluation:
    """What the referee says of one model on one data set.

    Attributes:
        summary: mean average precision, overall and by size.
        per_class: AP50-95 of each class that has a label.
        curve: precision over recall, mean over those classes.
        matches: which detection of which image found a label; what a bootstrap resamples.
        matches_by_size: the same for labels of one size alone: small, medium, large.
    """

    summary: AveragePrecision
    per_class: dict[str, float]
    curve: PrecisionRecall
    matches: list["ClassMatches"]
    matches_by_size: dict[str, list["ClassMatches"]]


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class that count, best first, matched to labels at T IoU thresholds.

    Attributes:
        name: of the class.
        score: `(D,)`, falling.
        image: `(D,)` index of each detection's image.
        found: `(T, D)` bool, matches a label.
        ignored: `(T, D)` bool, matches a crowd region: neither right nor wrong.
        labels: `(I,)` number of labels in each image, crowd regions excepted.
    """

    name: str
    score: NDArray[np.float64]
    image: NDArray[np.int64]
    found: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    labels: NDArray[np.int64]


def average_precision(
    truth: Sequence[Detections],
    predictions: Sequence[Detections],
    class_names: Sequence[str],
    crowd: Sequence[Sequence[bool]] | None = None,
) -> tuple[AveragePrecision, dict[str, float]]:
    """The summary and AP50-95 of each class that has a label; see `evaluate_boxes`."""
    evaluation = evaluate_boxes(truth, predictions, class_names, crowd)
    return evaluation.summary, evaluation.per_class


def evaluate_boxes(
    truth: Sequence[Detections],
    predictions: Sequence[Detections],
    class_names: Sequence[str],
    crowd: Sequence[Sequence[bool]] | None = None,
) -> BoxEvaluation:
    """COCO evaluation of predictions against labels, image by image.

    Args:
        truth: labels of each image.
        predictions: scored predictions of each image, in the pixels of its labels.
        class_names: name of each class index.
        crowd: whether each label is a COCO crowd region; None for no crowds.
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
    # Precision is -1 where a class has no label, or crowd regions alone.
    counted = [category for category in range(len(class_names)) if precision[:, :, category].min() >= 0]
    curve = np.clip(precision[:, :, counted].mean(axis=2), 0, 1) if counted else np.zeros(precision.shape[:2])
    names = ("map50_95", "map50", "map75", "map_small", "map_medium", "map_large")
    return BoxEvaluation(
        summary=AveragePrecision(**dict(zip(names, (float(value) for value in evaluation.stats[:6]), strict=True))),
        per_class={class_names[category]: float(np.mean(precision[:, :, category])) for category in counted},
        curve=PrecisionRecall(iou50=tuple(curve[0].tolist()), iou50_95=tuple(curve.mean(axis=0).tolist())),
        matches=[_class_matches(evaluation, category, len(truth), class_names) for category in counted],
        matches_by_size={
            size: [_class_matches(evaluation, category, len(truth), class_names, area) for category in counted]
            for area, size in enumerate(SIZES, start=1)
        },
    )


def _class_matches(
    evaluation: COCOeval, category: int, images: int, class_names: Sequence[str], area: int = 0
) -> ClassMatches:
    """The matches of a class, from the referee's records (they are ordered by class, area range and image).

    `area` is the index of an area range; the first one is all areas.
    """
    start = (category * len(evaluation.params.areaRng) + area) * images
    records = [(n, record) for n, record in enumerate(evaluation.evalImgs[start : start + images]) if record]
    labels = np.zeros(images, dtype=np.int64)
    for n, record in records:
        labels[n] = int((np.asarray(record["gtIgnore"]) == 0).sum())
    scores = np.concatenate([record["dtScores"][:PER_IMAGE] for _, record in records])
    order = np.argsort(-scores, kind="stable")
    image = np.concatenate([np.full(len(record["dtScores"][:PER_IMAGE]), n) for n, record in records])
    found = np.concatenate([record["dtMatches"][:, :PER_IMAGE] > 0 for _, record in records], axis=1)
    ignored = np.concatenate([record["dtIgnore"][:, :PER_IMAGE] > 0 for _, record in records], axis=1)
    return ClassMatches(
        class_names[category], scores[order], image[order].astype(np.int64), found[:, order], ignored[:, order], labels
    )


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
        | shape
        for image, found in zip(image_ids, predictions, strict=True)
        for (x1, y1, x2, y2), category, score, shape in zip(
            found.boxes.tolist(), found.classes.tolist(), found.scores.tolist(), _shapes(found), strict=True
        )
    ]


def _shapes(found: Detections) -> list[dict[str, Any]]:
    """What results hold of each object beside its box; nothing where that is all."""
    return [{}] * len(found) if found.shapes is None else found.shapes.results()


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
