"""RT-DETR of the ultralytics package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detectors.families.ultralytics import Ultralytics

if TYPE_CHECKING:
    from detectors.ultralytics.rtdetr import RtdetrDetector  # which loads torch


class Rtdetr(Ultralytics):
    """See `detectors.ultralytics.rtdetr`."""

    pickled = ("ultralytics.nn.tasks RTDETRDetectionModel",)

    def detector(self) -> type[RtdetrDetector]:
        """See `Ultralytics`."""
        from detectors.ultralytics.rtdetr import RtdetrDetector

        return RtdetrDetector


FAMILY = Rtdetr()
