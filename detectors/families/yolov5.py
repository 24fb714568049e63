"""The anchor-based YOLOv5 of the repository ultralytics/yolov5."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from detectors.families.adapter import FamilyAdapter
from schemas.teacher import TeacherIdentity, TeacherSource

if TYPE_CHECKING:
    from detectors.protocol import Detector  # which loads torch


class Yolov5(FamilyAdapter):
    """See `detectors.yolov5.detector`."""

    pickled = ("models.yolo",)

    def load(self, path: Path, source: TeacherSource) -> Detector:
        """See `FamilyAdapter`; nothing that the file names is built, trusted or not."""
        from detectors.yolov5.detector import Yolov5Detector

        return Yolov5Detector.load(path)

    def build(self, identity: TeacherIdentity) -> Detector:
        """See `FamilyAdapter`."""
        from detectors.yolov5.detector import Yolov5Detector

        return Yolov5Detector.build(identity)

    def numbers(self, identity: TeacherIdentity) -> int | None:
        """See `FamilyAdapter`."""
        from detectors.yolov5.detector import stored_numbers

        return stored_numbers(identity.architecture, len(identity.class_names))


FAMILY = Yolov5()
