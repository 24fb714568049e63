"""Whether a calibrated student needs training: how far its outputs are from the teacher's (`steps: auto`)."""

import torch

from detectors.protocol import Detector
from qat_job.distillation import output_divergence
from qat_job.images import ImageBatches
from schemas.qat_config import ENOUGH_DIVERGENCE, QatConfig
from schemas.student import TrainingDecision
from stages.stage import Stage

MAX_IMAGES = 32


@torch.no_grad()
def decide(
    student: Detector, teacher: Detector, images: ImageBatches, settings: QatConfig, stage: Stage
) -> TrainingDecision | None:
    """The divergence that decides whether `student`, calibrated, is trained; None where the settings say so.

    It tells bits apart that agreement on the set does not: there every object is large and certain, and even a W6A6
    student finds all of them.

    Args:
        student: calibrated, as it would be saved without training.
        teacher: the full-precision detector.
        images: of the calibration set; at most `MAX_IMAGES` of them are looked at.
        settings: `steps` and `batch`.
        stage: says what was found.
    """
    if settings.ptq_only or settings.steps != "auto":
        return None
    total, seen = 0.0, 0
    for batch in images.in_order(MAX_IMAGES, settings.batch):
        expected = teacher.head_outputs(batch)
        found = student.head_outputs(batch, like=expected)
        total += max(float(output_divergence(found, expected, temperature=1.0)), 0.0) * len(batch)
        seen += len(batch)
    decision = TrainingDecision(divergence=total / seen, images=seen, enough=ENOUGH_DIVERGENCE)
    what = "no training is needed" if decision.is_enough else f"{settings.training_steps} steps of training follow"
    stage.reporter.message(
        f"{settings.bits.name}, calibrated: outputs diverge by {decision.divergence:.3f} from full precision on the "
        f"set (up to {decision.enough:g} calibration is enough): {what}"
    )
    return decision
