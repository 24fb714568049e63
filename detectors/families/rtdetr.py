"""RT-DETR of the ultralytics package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from detectors.families.adapter import FamilyAdapter
from schemas.teacher import TeacherIdentity, TeacherSource

if TYPE_CHECKING:
    from detectors.protocol import Detector  # which loads torch


class Rtdetr(FamilyAdapter):
    """See `detectors.ultralytics.rtdetr`."""

    pickled = ("ultralytics.nn.tasks RTDETRDetectionModel",)

    def load(self, path: Path, source: TeacherSource) -> Detector:
        """See `FamilyAdapter`."""
        from detectors.ultralytics.rtdetr import RtdetrDetector

        return RtdetrDetector.load(path, source.trust_pickle)

    def build(self, identity: TeacherIdentity) -> Detector:
        """See `FamilyAdapter`."""
        from detectors.ultralytics.rtdetr import RtdetrDetector

        return RtdetrDetector.build(identity)

    def download(self, name: str) -> Path:
        """See `FamilyAdapter`: from the library's releases."""
        from detectors.ultralytics import assets

        return assets.download(name)


FAMILY = Rtdetr()
