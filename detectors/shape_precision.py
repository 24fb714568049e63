"""Average precision of masks and keypoints by pycocotools, and of turned boxes by the library's own metric."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectors.detections import Detections
from detectors.shapes.points import TurnedBoxes
from schemas.calibration_set import AveragePrecision
from schemas.labels import ShapeKind

AREA_OF_BOX = 0.53
"""Share of a box that its object covers, where labels do not say: what the Ultralytics validator takes."""
PERSON = 17
"""Keypoints of COCO's persons, which have tolerances of their own."""


def shape_precision(
    truth: Sequence[Detections],
    predictions: Sequence[Detections],
    class_names: Sequence[str],
    crowd: Sequence[Sequence[bool]] | None = None,
) -> tuple[ShapeKind, AveragePrecision] | None:
    """Average precision of what predictions say of objects beside boxes; None where labels or predictions lack shapes.

    Args:
        truth: labels of each image.
        predictions: scored predictions of each image, in the pixels of its labels.
        class_names: name of each class index.
        crowd: whether each label is a COCO crowd region; None for no crowds.
    """
    kinds = {None if each.shapes is None else each.shapes.kind for each in truth if len(each)}
    kinds |= {None if each.shapes is None else each.shapes.kind for each in predictions if len(each)}
    if len(kinds) != 1 or None in kinds:
        return None
    kind = kinds.pop()
    assert kind is not None
    if kind is ShapeKind.TURNED_BOX:
        return kind, _oriented(truth, predictions)
    return kind, _by_coco(truth, predictions, class_names, crowd, "segm" if kind is ShapeKind.MASK else "keypoints")


def _by_coco(
    truth: Sequence[Detections],
    predictions: Sequence[Detections],
    class_names: Sequence[str],
    crowd: Sequence[Sequence[bool]] | None,
    kind: str,
) -> AveragePrecision:
    annotations = _entries(truth)
    for annotation in annotations:
        image, number = annotation["image_id"], annotation.pop("number")
        annotation |= {"id": annotation["id"] + 1, "iscrowd": int(crowd[image][number]) if crowd else 0}
        x1, y1, x2, y2 = truth[image].boxes[number].tolist()
        annotation["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        annotation.setdefault("area", (x2 - x1) * (y2 - y1) * AREA_OF_BOX)
    results = _entries(predictions)
    ground = COCO()
    ground.dataset = {
        "info": {},
        "images": _images(len(truth), [*annotations, *results]),
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(class_names)],
    }
    for result in results:
        result.pop("number")
        result.pop("area", None)
    with contextlib.redirect_stdout(io.StringIO()):
        ground.createIndex()
        evaluation = COCOeval(ground, ground.loadRes(results) if results else _nothing(ground), kind)
        if kind == "keypoints":
            evaluation.params.kpt_oks_sigmas = _tolerances(evaluation.params.kpt_oks_sigmas, annotations)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = [float(value) for value in evaluation.stats]
    small = [stats[3]] if kind == "segm" else [-1.0]
    medium, large = stats[4:6] if kind == "segm" else stats[3:5]
    return AveragePrecision(
        map50_95=stats[0], map50=stats[1], map75=stats[2], map_small=small[0], map_medium=medium, map_large=large
    )


def _entries(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """Annotations or results of every image, with the `number` of each in its image."""
    entries: list[dict[str, Any]] = []
    for image, found in enumerate(detections):
        shapes = [] if found.shapes is None else found.shapes.results()
        for number, shape in enumerate(shapes):
            entries.append(
                {
                    "id": len(entries),
                    "image_id": image,
                    "category_id": int(found.classes[number]),
                    "number": number,
                    "score": float(found.scores[number]),
                }
                | shape
            )
    return entries


def _images(count: int, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The images, with the sizes of those that have masks."""
    sizes = {entry["image_id"]: entry["segmentation"]["size"] for entry in entries if "segmentation" in entry}
    return [
        {"id": image} | dict(zip(("height", "width"), sizes.get(image, ()), strict=False)) for image in range(count)
    ]


def _nothing(ground: COCO) -> COCO:
    empty = COCO()
    empty.dataset = ground.dataset | {"annotations": []}
    empty.createIndex()
    return empty


def _tolerances(persons: NDArray[np.float64], annotations: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    """COCO's own for a person's keypoints, else 1 / K for each of K, as in the Ultralytics package."""
    count = len(annotations[0]["keypoints"]) // 3
    return persons if count == PERSON else np.ones(count) / count


def _oriented(truth: Sequence[Detections], predictions: Sequence[Detections]) -> AveragePrecision:
    """The Ultralytics package's metric: probabilistic IoU of turned boxes, matched and averaged by its own code."""
    from ultralytics.engine.validator import BaseValidator
    from ultralytics.utils.metrics import ap_per_class, batch_probiou

    levels = torch.linspace(0.5, 0.95, 10)
    matcher: Any = BaseValidator.__new__(BaseValidator)  # its matching needs the levels alone
    matcher.iouv = levels
    right: list[NDArray[np.bool_]] = []
    for label, found in zip(truth, predictions, strict=True):
        if not len(label) or not len(found):
            right.append(np.zeros((len(found), len(levels)), dtype=bool))
            continue
        assert isinstance(label.shapes, TurnedBoxes) and isinstance(found.shapes, TurnedBoxes)
        overlap = batch_probiou(label.shapes.as_boxes(), found.shapes.as_boxes())
        right.append(matcher.match_predictions(found.classes, label.classes, overlap).cpu().numpy())
    scores = torch.cat([each.scores for each in predictions]).numpy()
    classes = torch.cat([each.classes for each in predictions]).numpy()
    wanted = torch.cat([each.classes for each in truth]).numpy()
    precisions = ap_per_class(np.concatenate(right), scores, classes, wanted)[5]  # (classes, levels)
    mean = precisions.mean(axis=0) if len(precisions) else np.zeros(len(levels))
    return AveragePrecision(
        map50_95=float(mean.mean()),
        map50=float(mean[0]),
        map75=float(mean[5]),
        map_small=-1.0,
        map_medium=-1.0,
        map_large=-1.0,
    )
