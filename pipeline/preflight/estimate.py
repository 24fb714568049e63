"""How long a run will take on this machine, from a few steps of its own work: about, by half more or less."""

import time
from collections.abc import Callable

import torch

from detectors.protocol import Detector
from schemas.image_size import ImageSize
from schemas.run_config import RunConfig
from schemas.synth_config import LabelSource, SynthConfig, ViewConfig
from synth_job.images import levels
from synth_job.inversion import Course, Inversion
from synth_job.label_sampling import random_boxes

STILL = ViewConfig(flip=0.0, shift=0.0, scales=(1.0,))
VIEWS = 1.03
"""Pixels of a random view by default, relative to the image: the mean of 0.8², 1 and 1.2²."""
TIMED_PIXELS = 2 * 640**2
"""Of the batch whose step is timed, about: enough to be computed as the real ones are, little enough to be quick."""
TRAINING = 2.0
"""A training step of an image, relative to a step of its inversion: the teacher's pass and simulated quantization."""
SCAN = 1.5
"""A look at what an image's outputs depend on, relative to a step of its inversion."""
CALIBRATION = 12.0
"""Calibration and correction of an image, relative to a forward pass."""
EXPORT_SECONDS = 40.0
"""Start of the processes, export, and what evaluation does beside looking at images."""
ROWS = 5
"""Models that an evaluation looks with: full precision, the students, exported files."""
PATIENCE_SECONDS = 4.0
"""A step that takes longer is timed once, else twice: the first one also sets up."""


def expected_seconds(config: RunConfig, teacher: Detector, size: ImageSize, images: int) -> dict[str, float]:
    """Seconds of each stage, on the device that the teacher is on.

    Args:
        config: of the run.
        teacher: the detector.
        size: of the images.
        images: labelled images and photographs that evaluation looks at, beside those held back.
    """
    synth = config.for_stage("synth")
    assert isinstance(synth, SynthConfig)
    sampling = size.scaled(synth.labels.size / size.longer, teacher.identity.stride, teacher.smallest_input)
    of_labels = inversion_step(teacher, sampling, synth.labels.batch)
    of_image = inversion_step(teacher, size, synth.inversion.batch)
    forward = timed(lambda: _look(teacher, size))
    held_back = synth.held_back or 0
    iterations = synth.labels.iterations if synth.labels.source is LabelSource.ADAPTIVE else 0
    schedule = levels(synth.inversion, size, teacher.identity.stride, teacher.smallest_input)
    per_image = iterations * of_labels + sum(steps * of_image * level.pixels / size.pixels for level, steps in schedule)
    qat = config.qat
    looks = min(synth.images, qat.sensitivity.images) if qat.sensitivity is not None else 0
    certain = qat.steps != "auto" or qat.plans_bits or min(qat.bits.weight_bits, qat.bits.activation_bits) < 8
    training = 0 if qat.ptq_only or not certain else qat.training_steps * qat.batch
    seen = images + held_back
    return {
        "synth": (synth.images + held_back) * per_image * VIEWS,
        "qat": looks * of_image * SCAN
        + min(synth.images, qat.calibration_images) * forward * CALIBRATION
        + training * of_image * TRAINING
        + EXPORT_SECONDS,
        "eval": ROWS * seen * forward + EXPORT_SECONDS,
    }


def inversion_step(teacher: Detector, size: ImageSize, largest: int) -> float:
    """Seconds of a step of the inversion of one image of `size`, in a batch of at most `largest`."""
    count = max(1, min(largest, TIMED_PIXELS // size.pixels))
    generator = torch.Generator().manual_seed(0)
    inversion, classes = Inversion(teacher), len(teacher.identity.class_names)
    labels = [random_boxes(generator, classes, 1).scaled(size.width, size.height) for _ in range(count)]

    def step() -> None:
        images = torch.rand(count, 3, size.height, size.width, generator=generator)
        inversion.run(images, labels, Course(1, 0.01, SynthConfig().inversion.weights, STILL), generator)

    return timed(step) / count


def timed(step: Callable[[], None]) -> float:
    """Seconds that `step` takes: the second time, unless the first one took long."""
    for _ in range(2):
        start = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        if seconds > PATIENCE_SECONDS:
            break
    return seconds


@torch.no_grad()
def _look(teacher: Detector, size: ImageSize) -> None:
    device = next(teacher.network.parameters()).device
    teacher.decoded(torch.rand(1, 3, size.height, size.width, device=device))
