"""Synthesis and training steps as the product runs them, and as it might: compiled, and as CUDA graphs."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.arithmetic import Arithmetic, computing_in
from benchmarks.gpu.graphs import GraphedNetwork, cuda_graph, uncaptured
from benchmarks.gpu.memory import peak_memory, reset_peak_memory
from benchmarks.gpu.roofline import Floor, Peaks, clock, count
from benchmarks.speed.steps import boxes, small_set
from detectors.protocol import Detector
from qat_job.images import ImageBatches
from qat_job.team import Team
from qat_job.training import Training
from quantization.calibrate import calibrate
from quantization.convert import make_student
from schemas.image_size import ImageSize
from schemas.qat_config import BitPolicy, QatConfig
from schemas.synth_config import Initialisation, InversionConfig
from stages.ranks import Rank
from stages.shards import open_calibration_set
from synth_job.initialisation import initial_images, sample_generator
from synth_job.inversion import Course, Inversion

WARM_UP = 3
"""Steps that do not count; in the first ones kernels are chosen, compiled and captured."""


class Mode(StrEnum):
    """How a network is run. The product has the first alone."""

    EAGER = "eager"
    GRAPHS = "graphs"
    COMPILED = "compiled"
    BOTH = "compiled, graphs"

    def compiled(self, function: Callable[..., Any], backend: str) -> Callable[..., Any]:
        """A network's `forward`, compiled."""
        torch.compiler.reset()
        options = {"mode": "reduce-overhead"} if self is Mode.BOTH and backend == "inductor" else {}
        made: Callable[..., Any] = torch.compile(function, backend=backend, dynamic=False, **options)
        return made


@dataclass(frozen=True)
class Bench:
    """What all variants have in common.

    Attributes:
        teacher: on the device.
        device: all of them run on.
        size: of square images, pixels.
        batch: images of a step.
        steps: timed together, between two waits for the device.
        rounds: of such steps; the median counts.
        backend: of `torch.compile`.
        peaks: of the device.
        folder: for what has to be written.
    """

    teacher: Detector
    device: torch.device
    size: int
    batch: int
    steps: int
    rounds: int
    backend: str
    peaks: Peaks
    folder: Path

    def timed(self, run: Callable[[int], object], arithmetic: Arithmetic, images: float) -> dict[str, Any]:
        """Values of a variant.

        Args:
            run: does some steps.
            arithmetic: that it computes in.
            images: that one step is worth.
        """
        with computing_in(arithmetic):
            reset_peak_memory(self.device)
            start = clock(self.device)
            run(WARM_UP)
            begun = clock(self.device)
            seconds = []
            for _ in range(self.rounds):
                before = clock(self.device)
                run(self.steps)
                seconds.append((clock(self.device) - before) / self.steps)
            peak = peak_memory(self.device)
        step = statistics.median(seconds)
        return {
            "step_seconds": step,
            "images_per_second": images / step,
            "peak_gb": peak,
            "warm_up_seconds": begun - start,
        }

    def against_floor(self, values: dict[str, Any], run: Callable[[int], object], arithmetic: Arithmetic) -> None:
        """Adds the share of the floor to the values of a variant that runs eagerly."""
        with computing_in(arithmetic):
            counted = count(lambda: run(1))
        floor = Floor.of(counted, self.peaks, arithmetic)
        values["giga_operations"] = sum(one.operations for one in counted) / 1e9
        values["gigabytes"] = sum(one.bytes for one in counted) / 1e9
        values["floor_seconds"] = floor.seconds
        for name, least in (("operations", floor.operations), ("bytes", floor.bytes), ("floor", floor.seconds)):
            values[f"share_of_{name}"] = least / values["step_seconds"]


def synthesis(bench: Bench, arithmetic: Arithmetic, mode: Mode, scales: tuple[float, ...] = (1.0,)) -> dict[str, Any]:
    """Steps of `Inversion.run`; an image takes as many as the product's default.

    Views flip and shift, and keep their size unless `scales` says otherwise: each other size is compiled anew.
    """
    config = InversionConfig()
    inversion = Inversion(bench.teacher, arithmetic.precision)
    network: Any = inversion._teacher.network
    if mode is Mode.GRAPHS:
        GraphedNetwork(inversion, cuda_graph if bench.device.type == "cuda" else uncaptured)
    elif mode is not Mode.EAGER:
        network.forward = mode.compiled(network.forward, bench.backend)
    start = initial_images(Initialisation.LOW_FREQUENCY, 0, range(bench.batch), ImageSize.square(bench.size))
    labels = boxes(bench.batch, bench.size, len(bench.teacher.identity.class_names))
    views = config.views.model_copy(update={"scales": scales})
    generator = sample_generator(0, 0)

    def run(steps: int) -> None:
        inversion.run(start, labels, Course(steps, config.learning_rate, config.weights, views), generator)

    values = bench.timed(run, arithmetic, bench.batch / config.iterations)
    if mode is Mode.EAGER and len(scales) == 1:
        bench.against_floor(values, run, arithmetic)
    return values


def training(bench: Bench, arithmetic: Arithmetic, mode: Mode) -> dict[str, Any]:
    """Steps of `Training.step` at W4A8 on one batch that is on the device; bf16 by an autocast around each."""
    folder = bench.folder / "set"
    if not folder.exists():
        small_set(bench.teacher, folder, bench.size, bench.batch)
    images = ImageBatches(open_calibration_set(folder), bench.device)
    config = QatConfig(bits=BitPolicy(weight_bits=4), batch=bench.batch, steps=1000)
    student = make_student(bench.teacher, config.bits)
    calibrate(student.network, lambda: images.in_order(bench.batch, bench.batch), student.head_outputs)
    pixels = next(images.in_order(bench.batch, bench.batch))
    labels = [label.to(bench.device) for label in images.labels(bench.batch)]
    training = Training(student, bench.teacher, config, Team(Rank(), bench.device))
    if mode is not Mode.EAGER:
        for detector in (student, training._teacher):
            network: Any = detector.network
            network.forward = mode.compiled(network.forward, bench.backend)

    def run(steps: int) -> None:
        for _ in range(steps):
            with torch.autocast(bench.device.type, torch.bfloat16, enabled=arithmetic is Arithmetic.BF16):
                training.step(pixels, labels)

    with training:
        values = bench.timed(run, arithmetic, bench.batch)
        if mode is Mode.EAGER:
            bench.against_floor(values, run, arithmetic)
    return values
