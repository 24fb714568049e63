"""Masks of a Mask R-CNN, whose labels are boxes, are measured beside its boxes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from detectors.detections import Detections
from detectors.protocol import Suppression
from eval_job.evaluate import InferenceSettings, predict
from eval_job.measure import labelled
from label_formats.images import ValidationImage, ValidationSet
from label_formats.objects import FurtherLabels
from schemas.image_size import ImageSize
from schemas.labels import ShapeKind

SIZE = ImageSize.square(96)
SETTINGS = InferenceSettings(SIZE, batch=2, limits=Suppression(0.005, max_detections=10, masks=True))


@pytest.fixture
def detector(torchvision_detector: Callable[..., Any]) -> Any:
    built = torchvision_detector("maskrcnn")
    for part in ("box_predictor.cls_score", "mask_predictor.mask_fcn_logits"):
        nn.init.normal_(built.network.roi_heads.get_submodule(part).weight, std=0.1)  # initial ones say all alike
    return built


def photographs() -> list[ValidationImage]:
    """Two images that are smaller than the network's and not square, with no labels yet."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 64, 3), dtype=np.uint8)
    none = np.zeros(0, dtype=np.int64)
    return [
        ValidationImage(n, each, np.zeros((0, 4), np.float32), none, none.astype(np.bool_))
        for n, each in enumerate(pixels)
    ]


def with_labels(images: Sequence[ValidationImage], found: Sequence[Detections]) -> ValidationSet:
    """The images with what was found on them, as a COCO file would label it."""
    marked = [
        replace(
            image,
            boxes=each.boxes.numpy(),
            classes=each.classes.numpy(),
            crowd=np.zeros(len(each), dtype=np.bool_),
            further=FurtherLabels(segmentations=[entry["segmentation"] for entry in each.shapes.results()]),
        )
        for image, each in zip(images, found, strict=True)
        if each.shapes is not None
    ]
    return ValidationSet("marked", "coco", marked, dict(enumerate(range(4))))


def test_masks_are_measured_where_labels_have_them(detector: Any) -> None:
    images, names = photographs(), detector.identity.class_names
    found = predict(detector, images, torch.device("cpu"), SETTINGS).detections
    on = labelled(with_labels(images, found), "0" * 64, SIZE, detector)
    other = detector.copy()
    nn.init.normal_(other.network.roi_heads.mask_predictor.mask_fcn_logits.weight, std=0.1)
    changed = predict(other, images, torch.device("cpu"), SETTINGS).detections

    same, less = (on.measure_shapes(each, names) for each in (found, changed))
    assert same is not None and same.kind is ShapeKind.MASK and same.precision.map50_95 == pytest.approx(1.0)
    assert less is not None and less.precision.map50_95 < 0.9
    assert on.measure_shapes([replace(each, shapes=None) for each in found], names) is None, "an exported file's"
