"""The steps that are timed, where the product runs them, and the floor of each in plain PyTorch."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detectors.detections import Detections
from detectors.protocol import Detector, Suppression
from qat_job.checkpoint import Checkpoints
from qat_job.images import ImageBatches
from qat_job.team import Team
from qat_job.training import Training, train
from quantization.calibrate import calibrate
from quantization.convert import make_student
from schemas.calibration_set import MANIFEST, CalibrationSetManifest, LabelMode, LabelStatistics
from schemas.image_size import ImageSize
from schemas.labels import LabelOrigin
from schemas.provenance import Provenance
from schemas.qat_config import BitPolicy, QatConfig
from schemas.synth_config import Initialisation, InversionConfig, LabelConfig, SynthConfig, ViewConfig
from stages.ranks import Rank
from stages.shards import open_calibration_set, write_shard
from stages.stage import Stage
from stages.storage import write_text
from synth_job.images import to_pixels
from synth_job.initialisation import initial_images, sample_generator
from synth_job.inversion import Course, Inversion, Watch
from synth_job.label_sampling import random_boxes

BOXES = 4
"""Labels of each image."""


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock, and of all threads of this process on a core, which other processes hardly change."""

    wall: float
    cpu: float

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.wall - other.wall, self.cpu - other.cpu)

    @classmethod
    def median(cls, values: list["Spent"]) -> "Spent":
        return cls(statistics.median(value.wall for value in values), statistics.median(value.cpu for value in values))


def now(device: str) -> Spent:
    """The clocks, once the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return Spent(time.perf_counter(), time.process_time())


@dataclass(frozen=True)
class Work:
    """One step of the product and its floors.

    Attributes:
        shape: as a person would say it.
        step: runs some steps and gives what each took.
        floors: by name, the one that counts first; each runs once.
    """

    shape: str
    step: Callable[[int], list["Spent"]]
    floors: dict[str, Callable[[], object]]


def input_gradient(detector: Detector, images: Tensor) -> Callable[[], object]:
    """The floor of an inversion step: forward, and backward to the images alone."""

    def run() -> object:
        pixels = images.clone().requires_grad_()
        outputs = detector.head_outputs(pixels)
        heads = (*outputs.class_logits, *outputs.box_logits)
        return torch.autograd.grad(heads, pixels, [torch.ones_like(head) for head in heads])

    return run


def sampling(teacher: Detector, size: int, batch: int) -> Work:
    """Label sampling, relabelling left out: it comes every 50 steps."""
    return inverting(teacher, size, batch, LabelConfig().weights, LabelConfig().views, fixed=True)


def inversion(teacher: Detector, size: int, batch: int, *, views: bool) -> Work:
    """Synthesis, in views of one size or as shipped."""
    return inverting(teacher, size, batch, InversionConfig().weights, InversionConfig().views, fixed=not views)


def inverting(teacher: Detector, size: int, batch: int, weights: Any, views: ViewConfig, *, fixed: bool) -> Work:
    """`Inversion.run`, timed between calls of `advance`; fixed: views flip and shift, and do not change their size."""
    if fixed:
        views = views.model_copy(update={"scales": (1.0,)})
    device = next(teacher.network.parameters()).device
    start = initial_images(Initialisation.LOW_FREQUENCY, 0, range(batch), ImageSize.square(size))
    labels = boxes(batch, size, len(teacher.identity.class_names))
    plain = start.to(device)
    generator = sample_generator(0, 0)  # one for all turns, so that all views take theirs
    inversion = Inversion(teacher)

    def step(count: int) -> list[Spent]:
        moments: list[Spent] = []
        watch = Watch(lambda: moments.append(now(str(device))))
        inversion.run(start, labels, Course(count + 1, 0.05, weights, views), generator, watch)
        return [after - before for before, after in pairwise(moments)]

    floors = {
        "as loaded": input_gradient(teacher, plain),
        "channels last": input_gradient(teacher, plain.contiguous(memory_format=torch.channels_last)),
    }
    return Work(f"{size} px, batch {batch}", step, floors)


def training(teacher: Detector, size: int, batch: int, folder: Path) -> Work:
    """`train` at W4A8, timed between one batch and the next: decoding and augmentation count."""
    device = next(teacher.network.parameters()).device
    images = TimedBatches(small_set(teacher, folder / "set", size, 2 * batch), device)
    config = QatConfig(bits=BitPolicy(weight_bits=4), batch=batch, checkpoint_interval=10**6)
    student = make_student(teacher, config.bits)
    calibrate(student.network, lambda: images.in_order(batch, batch), student.head_outputs)
    checkpoints = Checkpoints(folder / "checkpoints", Provenance.of("qat", {}, {}), 1)
    stage = Stage("benchmark")

    def step(count: int) -> list[Spent]:
        images.moments.clear()
        timed = config.model_copy(update={"steps": count + 1})
        train(Training(student, teacher, timed, Team(Rank(), device)), images, stage, checkpoints)
        return [after - before for before, after in pairwise(images.moments)]

    full_precision = teacher.copy()
    full_precision.network.requires_grad_(True)
    plain = next(images.in_order(batch, batch)).contiguous()

    def floor_on(pixels: Tensor) -> Callable[[], object]:
        def run() -> None:
            full_precision.network.zero_grad()
            outputs = full_precision.head_outputs(pixels)
            heads = (*outputs.class_logits, *outputs.box_logits)
            torch.autograd.backward(heads, [torch.ones_like(head) for head in heads])
            with torch.no_grad():
                teacher.head_outputs(pixels)

        return run

    floors = {
        "as loaded": floor_on(plain),
        "channels last": floor_on(plain.contiguous(memory_format=torch.channels_last)),
    }
    return Work(f"W4A8, {size} px, batch {batch}", step, floors)


class TimedBatches(ImageBatches):
    """Notes when each batch is asked for."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.moments: list[Spent] = []

    def shuffled(self, *arguments: Any, **named: Any) -> Iterator[tuple[Tensor, list[Detections]]]:
        """See `ImageBatches`."""
        for batch in super().shuffled(*arguments, **named):
            yield batch
            self.moments.append(now(str(batch[0].device)))
        self.moments.append(now("cpu"))


def evaluation(teacher: Detector, size: int, batch: int) -> Work:
    """`predict` of a batch, suppression included, as evaluation times it; floor: the forward pass."""
    images = initial_images(Initialisation.LOW_FREQUENCY, 0, range(batch), ImageSize.square(size))
    images = images.to(next(teacher.network.parameters()).device)

    def step(count: int) -> list[Spent]:
        seconds = []
        for _ in range(count):
            start = now(str(images.device))
            teacher.predict(images, Suppression(0.001))
            seconds.append(now(str(images.device)) - start)
        return seconds

    def floor() -> object:
        with torch.no_grad():
            return teacher.network(images)

    return Work(f"{size} px, batch {batch}", step, {"as loaded": floor})


def boxes(count: int, size: int, classes: int) -> list[Detections]:
    """Labels of `count` images."""
    return [random_boxes(sample_generator(1, index), classes, BOXES).scaled(size) for index in range(count)]


def small_set(teacher: Detector, folder: Path, size: int, count: int) -> Any:
    """A calibration set of smooth noise."""
    labels = [
        found.to_labels(ImageSize.square(size), [LabelOrigin.SAMPLED] * len(found))
        for found in boxes(count, size, len(teacher.identity.class_names))
    ]
    config = SynthConfig(image_size=size, images=count, shard_size=count)
    provenance = Provenance.of("synth", config.keyed(), {"teacher": teacher.identity.sha256})
    pixels = to_pixels(initial_images(Initialisation.LOW_FREQUENCY, 0, range(count), ImageSize.square(size)))
    shard = write_shard(
        folder, 0, zip(pixels, labels, strict=True), first_sample=0, seed=0, key=provenance.key
    )  # fmt: skip
    manifest = CalibrationSetManifest(
        teacher=teacher.identity,
        label_mode=LabelMode.SAMPLED,
        synth=config,
        image_size=size,
        seed=0,
        shards=(shard,),
        statistics=LabelStatistics.of(labels, teacher.identity.class_names),
        teacher_agreement=None,
        provenance=provenance,
    )
    write_text(folder / MANIFEST, manifest.to_json())
    return open_calibration_set(folder)
