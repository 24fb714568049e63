"""How well a student's predictions agree with the calibration set's labels: mAP without a real image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detectors.average_precision import average_precision
from detectors.detections import Detections
from detectors.protocol import Detector, Suppression

CONFIDENCE = 0.001
"""Lowest score that counts, COCO practice."""


def agreement(detector: Detector, batches: Sequence[Tensor], labels: Sequence[Detections]) -> float:
    """mAP50-95 of a detector's predictions on calibration images against their labels.

    Args:
        detector: teacher or student.
        batches: images, `(B, 3, H, W)` each.
        labels: of each image, in the same order.
    """
    found = [
        each.to(torch.device("cpu")) for images in batches for each in detector.predict(images, Suppression(CONFIDENCE))
    ]
    return average_precision(labels, found, detector.identity.class_names)[0].map50_95
