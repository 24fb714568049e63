"""What training is good for: whether a calibrated student needs any (`steps: auto`), and whether it gained by it."""

from collections.abc import Iterable

import torch
from torch import Tensor

from detectors.protocol import Detector
from qat_job.calibration_set import check_same_teacher
from qat_job.distillation import output_divergence
from qat_job.images import ImageBatches
from schemas.calibration_set import HELD_BACK_FOLDER, MANIFEST
from schemas.qat_config import ENOUGH_DIVERGENCE, QatConfig
from schemas.student import TrainingComparison, TrainingDecision
from stages.shards import CalibrationSet, open_calibration_set
from stages.stage import Stage

MAX_IMAGES = 32


@torch.no_grad()
def mean_divergence(student: Detector, teacher: Detector, batches: Iterable[Tensor]) -> tuple[float, int]:
    """The divergence of a student's outputs from its teacher's, a mean over images, and how many there are.

    Args:
        student: any.
        teacher: the full-precision detector.
        batches: images, `(B, 3, H, W)`.
    """
    total, seen = 0.0, 0
    for batch in batches:
        expected = teacher.head_outputs(batch)
        found = student.head_outputs(batch, like=expected)
        total += max(float(output_divergence(found, expected, temperature=1.0)), 0.0) * len(batch)
        seen += len(batch)
    return total / seen, seen


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
    divergence, seen = mean_divergence(student, teacher, images.in_order(MAX_IMAGES, settings.batch))
    decision = TrainingDecision(divergence=divergence, images=seen, enough=ENOUGH_DIVERGENCE)
    what = "no training is needed" if decision.is_enough else f"{settings.training_steps} steps of training follow"
    stage.reporter.message(
        f"{settings.bits.name}, calibrated: outputs diverge by {decision.divergence:.3f} from full precision on the "
        f"set (up to {decision.enough:g} calibration is enough): {what}"
    )
    return decision


def compare(
    trained: Detector, calibrated: Detector, teacher: Detector, calibration_set: CalibrationSet, settings: QatConfig
) -> TrainingComparison:
    """The divergence of a student after its training and before, which decides which one is kept.

    Images that were held back of the set are the better judge, since nothing was trained on them. Without them, the
    judges are the set's own images, as they are stored.

    Raises:
        ZsqError: what is held back cannot be verified, or was made from other weights.
    """
    held_back = calibration_set.folder / HELD_BACK_FOLDER
    is_there = (held_back / MANIFEST).exists()
    judge = open_calibration_set(held_back) if is_there else calibration_set
    check_same_teacher(teacher, judge, settings.allow_other_teacher)
    images = ImageBatches(judge, next(teacher.network.parameters()).device)
    of_trained, of_calibrated = (
        mean_divergence(student, teacher, images.in_order(MAX_IMAGES, settings.batch))
        for student in (trained, calibrated)
    )
    return TrainingComparison(
        trained=of_trained[0], calibrated=of_calibrated[0], images=of_trained[1], held_back=is_there
    )
