"""The further heads of the ultralytics package, one class each."""

from detectors.ultralytics.obb import ObbDetector
from detectors.ultralytics.pose import PoseDetector
from detectors.ultralytics.segment import SegmentDetector
from detectors.ultralytics.yolo import UltralyticsDetector

FURTHER: tuple[type[UltralyticsDetector], ...] = (SegmentDetector, PoseDetector, ObbDetector)
"""Beside `UltralyticsDetector`, which serves the plain ones."""
