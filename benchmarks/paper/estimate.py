"""Hours that each row takes on this machine, from a few timed steps of each stage's own work."""

import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from benchmarks.paper.rows import Detector, Row
from benchmarks.speed.steps import inverting, now, small_set
from detectors.protocol import Detector as Network
from detectors.protocol import Suppression
from detectors.registry import check_size, load_teacher, resolve_device
from pipeline.preflight.checks import read_validation
from pipeline.preflight.estimate import VIEWS
from qat_job.images import ImageBatches
from qat_job.team import Team
from qat_job.training import Training
from quantization.calibrate import calibrate
from quantization.convert import make_student
from quantization.fitting import fit_to_float
from schemas.image_size import ImageSize
from schemas.run_config import RunConfig
from schemas.synth_config import InversionConfig, LabelConfig, LabelSource, SynthConfig
from stages.ranks import Rank
from synth_job.images import levels

HOUR = 3600.0
STEPS = 3
"""Timed steps of each kind, after one that is not timed."""
LOOKS_BEFORE, LOOKS_AFTER = 1, 2
"""Models that look at each validation image: full precision, then the calibrated and the trained student."""
EXTRAPOLATED = (
    f"From medians of {STEPS} timed steps, at the batch and size of the run, times the number of such steps: of label "
    "sampling, of inversion at each of its sizes (random views by their mean area), of training at the bits of the "
    "first row, of detection; and from an image and a batch each of calibration and layer fitting, as a line. Not "
    "in it: relabelling, reading and writing of images, box matching, start of processes or containers, downloads."
)
"""What the hours are made from, and what they leave out."""


@dataclass(frozen=True)
class Seconds:
    """What was measured of a detector.

    Attributes:
        calibration_set: all of synth.
        step: of training.
        prepared: calibration and layer fitting of a student.
        evaluation: of all models on all validation images.
    """

    calibration_set: float
    step: float
    prepared: float
    evaluation: float

    def of_row(self, steps: int) -> float:
        """Of a student's training and evaluation."""
        return self.prepared + steps * self.step + self.evaluation


def hours(configs: Mapping[Row, RunConfig], found: Mapping[Detector, Seconds]) -> list[list[str]]:
    """Name, set, training and evaluation, and both, of each row and of all; a detector's first row has its set."""
    cells, total, counted = [], 0.0, set()
    for row, config in configs.items():
        seconds = found[row.detector]
        of_set = 0.0 if row.detector in counted else seconds.calibration_set
        of_row = seconds.of_row(config.qat.training_steps)
        counted.add(row.detector)
        total += of_set + of_row
        cells.append([row.name, *(f"{each / HOUR:.3g}" for each in (of_set, of_row, of_set + of_row))])
    return [*cells, ["all rows", "", "", f"{total / HOUR:.3g}"]]


def measured(config: RunConfig, validation_images: int, between: Callable[[], None]) -> Seconds:
    """Time a few steps of each stage of a run on the device that it would take here.

    Args:
        config: of the run.
        validation_images: of an evaluation; where the run names labelled images, those are counted instead.
        between: called between the kinds of work, to stop there.

    Raises:
        ConfigError: no such device, or a size that the detector does not take.
        InputError: the detector or the labelled images cannot be used.
    """
    device = resolve_device(config.synth.device)
    teacher = load_teacher(config.teacher, device)
    size = config.synth.image_size or ImageSize.square(teacher.identity.input_size)
    check_size(teacher, size, "image_size")
    if config.eval.labelled_data is not None:
        validation, _ = read_validation(config, teacher)
        validation_images = len(validation.images) if validation else 0
    with tempfile.TemporaryDirectory(prefix="zsq-") as folder:
        student = StudentTimes(teacher, config, size, Path(folder))
        look = LOOKS_BEFORE * student.look(teacher)
        between()
        prepared = student.prepared()
        between()
        look += LOOKS_AFTER * student.look(student.detector)
        between()
        step = student.step()
        between()
    return Seconds(seconds_of_set(teacher, config.synth, size), step, prepared, validation_images * look)


def seconds_of_set(teacher: Network, synth: SynthConfig, size: ImageSize) -> float:
    """Seconds of the whole calibration set, images held back included."""
    images = synth.images + (synth.held_back or 0)

    def iteration(side: int, of: LabelConfig | InversionConfig) -> float:
        """Of one image."""
        batch = min(of.batch, images)
        work = inverting(teacher, side, batch, of.weights, of.views, fixed=True)
        return statistics.median(spent.wall for spent in work.step(1 + STEPS)[1:]) / batch

    stride, smallest = teacher.identity.stride, teacher.smallest_input
    per_image = 0.0
    if synth.labels.source is LabelSource.ADAPTIVE:
        sampling = size.scaled(synth.labels.size / size.longer, stride, smallest)
        per_image += synth.labels.iterations * iteration(sampling.height, synth.labels)
    for level, iterations in levels(synth.inversion, size, stride, smallest):
        per_image += iterations * iteration(level.height, synth.inversion)
    return images * per_image * VIEWS


class StudentTimes:
    """Times the work of a student, on a set of smooth noise.

    Args:
        teacher: its detector.
        config: of the run.
        size: of the images.
        folder: an empty one, for the set.
    """

    def __init__(self, teacher: Network, config: RunConfig, size: ImageSize, folder: Path) -> None:
        self._teacher, self._config, self._qat = teacher, config, config.qat
        self._device = next(teacher.network.parameters()).device
        self._images = ImageBatches(
            small_set(teacher, folder, size.height, self._qat.batch), self._device, teacher.mirror
        )
        self._batch = next(self._images.in_order(self._qat.batch, self._qat.batch))
        self.detector = make_student(teacher, self._qat.bits)

    def prepared(self) -> float:
        """Seconds of calibration and layer fitting; the student is calibrated then."""
        qat, student, images = self._qat, self.detector, self._config.synth.images

        def calibration(batch: Tensor) -> None:
            calibrate(student.network, lambda: [batch], student.head_outputs)

        def fitting(batch: Tensor) -> None:
            fit_to_float(student.copy(), batch, compensate=True)

        # Layers are fitted twice: in the student that is only calibrated, and in the one that is trained.
        once = self._extrapolated(calibration, min(qat.calibration_images, images))
        return once + 2 * self._extrapolated(fitting, min(qat.correction_images, images))

    def _extrapolated(self, work: Callable[[Tensor], None], images: int) -> float:
        """Seconds of `work` on so many images, from one image and a batch: part of it is the same for any number."""
        one, batch = self._timed(lambda: work(self._batch[:1])), self._timed(lambda: work(self._batch))
        return one + (images - 1) * max(0.0, batch - one) / max(1, len(self._batch) - 1)

    def look(self, detector: Network) -> float:
        """Seconds in which a detector finds what an image shows."""
        suppression = Suppression(self._config.eval.confidence)
        times = [self._timed(lambda: detector.predict(self._batch, suppression)) for _ in range(1 + STEPS)]
        return statistics.median(times[1:]) / len(self._batch)

    def step(self) -> float:
        """Seconds of a training step, decoding and augmentation of its batch included."""
        qat = self._qat.model_copy(update={"steps": 1 + STEPS})
        times = []
        with Training(self.detector, self._teacher, qat, Team(Rank(), self._device)) as training:
            batches = self._images.shuffled(1 + STEPS, qat.batch, 0, qat.augmentation)
            for _ in range(1 + STEPS):
                times.append(self._timed(lambda: training.step(*next(batches))))
        return statistics.median(times[1:])

    def _timed(self, work: Callable[[], object]) -> float:
        start = now(str(self._device))
        work()
        return (now(str(self._device)) - start).wall
