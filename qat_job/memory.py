"""Whether what the stage computes at once fits into memory, asked before any work."""

from detectors.memory import live_bytes, per_pixel, worth_asking
from detectors.protocol import Detector
from qat_job.team import Team
from qat_job.training import Training
from quantization.convert import make_student
from schemas.image_size import ImageSize
from schemas.qat_config import QatConfig
from stages.memory import Need
from stages.ranks import Rank
from stages.stage import Stage

CORRECTION_OVERHEAD = 2.1
"""What correction takes at its peak, over a forward pass: the images, and copies of a layer's inputs and outputs.
Measured on YOLO11n (docs/performance.md)."""
TRAINING_OVERHEAD = 1.35
"""What a step takes at its peak, over what is kept for its gradients: the teacher's features, and as in synthesis.
Measured on YOLO11n: 1.34 (docs/performance.md)."""


def check_memory(
    settings: QatConfig, teacher: Detector, size: ImageSize, images: int, team: Team, stage: Stage
) -> None:
    """Refuse images of correction and batches of training that a CPU's memory cannot hold.

    Args:
        settings: of the stage.
        teacher: the full-precision detector.
        size: of the images.
        images: in the calibration set.
        team: whose processes share each batch.
        stage: says what may not fit.

    Raises:
        ConfigError: one of them needs more memory than there is.
    """
    if not worth_asking(teacher, size):
        return
    student = make_student(teacher, settings.bits)
    shape = f"{size.height} x {size.width} pixels"
    if corrected := min(settings.correction_images, images):
        each = per_pixel(teacher, lambda image, _: live_bytes(lambda: student.head_outputs(image))) * size.pixels
        what = f"{corrected} images of {shape} that outputs are corrected on"
        Need(what, corrected, each, CORRECTION_OVERHEAD, "correction_images").check(stage.reporter.message)
    if settings.ptq_only:
        return
    alone = Team(Rank(), next(teacher.network.parameters()).device)
    with Training(student, teacher, settings, alone) as training:
        each = per_pixel(teacher, training.kept_bytes) * size.pixels
    count = settings.batch // team.count
    Need(f"{count} images of {shape} a step", count, each, TRAINING_OVERHEAD, "batch").check(stage.reporter.message)
