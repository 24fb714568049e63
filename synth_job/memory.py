"""Whether a batch fits into memory, asked before any image is made."""

from detectors.memory import per_pixel, worth_asking
from detectors.protocol import Detector
from schemas.image_size import ImageSize
from schemas.synth_config import SynthConfig
from stages.memory import Need
from stages.stage import Stage
from synth_job.inversion import Inversion

OVERHEAD = 1.25
"""What a step takes at its peak, over what is kept for its gradients: gradients on their way, and what kernels need.
Measured on YOLO11n: 1.20 (docs/performance.md)."""


def check_memory(settings: SynthConfig, teacher: Detector, inversion: Inversion, size: ImageSize, stage: Stage) -> None:
    """Refuse a batch of the inversion that a CPU's memory cannot hold; label sampling forms far smaller images.

    Raises:
        ConfigError: it needs more memory than there is.
    """
    scale = max(settings.inversion.views.scales)
    largest = ImageSize(round(size.height * scale), round(size.width * scale))
    if not worth_asking(teacher, largest):
        return
    weights = settings.inversion.weights
    each = per_pixel(teacher, lambda images, labels: inversion.kept_bytes(images, labels, weights)) * largest.pixels
    count = min(settings.inversion.batch, settings.shard_size, settings.images)
    what = f"{count} images at once, seen in views of up to {largest.height} x {largest.width} pixels,"
    Need(what, count, each, OVERHEAD, "inversion.batch").check(stage.reporter.message)
