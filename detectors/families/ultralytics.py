"""YOLO of the ultralytics package, v3 to 26."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from detectors.families.adapter import FamilyAdapter
from schemas.teacher import EMBEDDED, TeacherIdentity, TeacherSource

if TYPE_CHECKING:
    from detectors.protocol import Detector  # which loads torch
    from detectors.ultralytics.yolo import UltralyticsDetector


class Ultralytics(FamilyAdapter):
    """See `detectors.ultralytics.yolo`."""

    pickled = ("ultralytics.nn",)

    def detector(self) -> type[UltralyticsDetector]:
        """The class that implements `Detector`."""
        from detectors.ultralytics.yolo import UltralyticsDetector

        return UltralyticsDetector

    def load(self, path: Path, source: TeacherSource) -> Detector:
        """See `FamilyAdapter`; the embedded detector is of this family."""
        if source.path == EMBEDDED:
            return self.detector().embedded(path)
        return self.detector().load(path, source.trust_pickle)

    def build(self, identity: TeacherIdentity) -> Detector:
        """See `FamilyAdapter`."""
        return self.detector().build(identity)

    def numbers(self, identity: TeacherIdentity) -> int | None:
        """See `FamilyAdapter`."""
        from detectors.ultralytics.architecture_limits import stored_numbers

        return stored_numbers(identity)

    def download(self, name: str) -> Path:
        """See `FamilyAdapter`: from the library's releases."""
        from detectors.ultralytics import assets

        return assets.download(name)


FAMILY = Ultralytics()
