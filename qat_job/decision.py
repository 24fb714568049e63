"""Whether a calibrated student needs training: how far it agrees with its teacher on the set (`steps: auto`)."""

import torch

from detectors.protocol import Detector
from detectors.self_labels import self_labels
from qat_job.images import ImageBatches
from qat_job.sensitivity.agreement import CONFIDENCE, agreement
from schemas.qat_config import ENOUGH_AGREEMENT, QatConfig
from schemas.student import CalibrationAgreement
from stages.stage import Stage

LABEL_CONFIDENCE = 0.25
"""Lowest score at which a detection of the teacher stands for an object, as in evaluation."""
MAX_IMAGES = 32


def decide(
    student: Detector, teacher: Detector, images: ImageBatches, settings: QatConfig, stage: Stage
) -> CalibrationAgreement | None:
    """The agreement that decides whether `student`, calibrated, is trained; None where the settings say so.

    Args:
        student: calibrated, as it would be saved without training.
        teacher: the full-precision detector.
        images: of the calibration set; at most `MAX_IMAGES` of them are looked at.
        settings: `steps` and `batch`.
        stage: says what was found.
    """
    if settings.ptq_only or settings.steps != "auto":
        return None
    batches = list(images.in_order(MAX_IMAGES, settings.batch))
    found = [
        each.to(torch.device("cpu"))
        for batch in batches
        for each in teacher.predict(batch, confidence=CONFIDENCE, iou=None, max_detections=300, multi_label=True)
    ]
    labels, _ = self_labels(found, LABEL_CONFIDENCE)
    measured = agreement(student, batches, labels) if any(len(each) for each in labels) else -1.0
    decision = CalibrationAgreement(map50_95=measured, images=len(found), enough=ENOUGH_AGREEMENT)
    what = "calibration is enough, no training" if decision.is_enough else f"training, {settings.training_steps} steps"
    stage.reporter.message(
        f"{settings.bits.name}: calibrated, agreement with full precision on the set is {measured:.3f} "
        f"({decision.enough:g} is enough): {what}"
    )
    return decision
