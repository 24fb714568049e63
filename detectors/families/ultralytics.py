"""YOLO of the ultralytics package, v3 to 26."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from detectors.families.adapter import FamilyAdapter
from schemas.teacher import EMBEDDED, TeacherIdentity, TeacherSource

if TYPE_CHECKING:
    from detectors.protocol import Detector  # which loads torch


class Ultralytics(FamilyAdapter):
    """See `detectors.ultralytics.yolo`."""

    pickled = ("ultralytics.nn",)

    def load(self, path: Path, source: TeacherSource) -> Detector:
        """See `FamilyAdapter`; the embedded detector is of this family."""
        from detectors.ultralytics.yolo import UltralyticsDetector

        if source.path == EMBEDDED:
            return UltralyticsDetector.embedded(path)
        return UltralyticsDetector.load(path, source.trust_pickle)

    def build(self, identity: TeacherIdentity) -> Detector:
        """See `FamilyAdapter`."""
        from detectors.ultralytics.yolo import UltralyticsDetector

        return UltralyticsDetector.build(identity)

    def download(self, name: str) -> Path:
        """See `FamilyAdapter`: from the library's releases."""
        from detectors.ultralytics import assets

        return assets.download(name)


FAMILY = Ultralytics()
