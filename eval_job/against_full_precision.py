"""What a student's row says beside full precision on the same images: thresholds, scores and classes."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from detectors.average_precision import BoxEvaluation
from detectors.detections import Detections
from eval_job.class_changes import class_changes
from eval_job.operating_point import confidence_shift, matched_thresholds
from schemas.evaluation import Measure


class Found(Protocol):
    """What was measured of a model: its detections, the referee's word on them, and AP by resample and class."""

    @property
    def detections(self) -> list[Detections]: ...

    @property
    def evaluation(self) -> BoxEvaluation: ...

    @property
    def resampled(self) -> NDArray[np.float64] | None: ...


def against_full_precision(student: Found, full: Found, measure: Measure, class_names: Sequence[str]) -> dict[str, Any]:
    """Fields of a student's row; without labels full precision is right by definition."""
    return {
        "thresholds": matched_thresholds(student.evaluation, full.evaluation, measure is Measure.ACCURACY),
        "confidence_shift": confidence_shift(student.detections, full.detections, class_names),
        "class_changes": class_changes(student.evaluation, full.evaluation, student.resampled, full.resampled),
    }
