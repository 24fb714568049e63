"""Every step of the pipeline against its floor: what the networks in it cost alone, in plain PyTorch.

Steps are timed where the product runs them: inside `invert`, `train` and `predict`, at the moments they report. Floors
take turns with them in one process, so that whatever else the machine does falls on all alike; medians over all rounds.
Peak memory is that of a process of its own for each step.

    uv run python -m benchmarks.speed --teacher yolo11n.pt --machine cpu-2

writes `benchmarks/results/<machine>.json` and the table between the markers of `docs/performance.md`.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from detectors.detections import Detections
from detectors.protocol import Detector
from detectors.registry import load_teacher
from qat_job.checkpoint import Checkpoints
from qat_job.images import ImageBatches
from qat_job.training import train
from quantization.calibrate import calibrate
from quantization.convert import make_student
from schemas.calibration_set import MANIFEST, CalibrationSetManifest, LabelMode, LabelStatistics
from schemas.labels import LabelOrigin
from schemas.provenance import Provenance
from schemas.qat_config import BitPolicy, QatConfig
from schemas.shards import open_calibration_set, write_shard
from schemas.stage import Stage
from schemas.storage import write_text
from schemas.synth_config import Initialisation, InversionConfig, LabelConfig, SynthConfig, ViewConfig
from schemas.teacher import TeacherSource
from synth_job.initialisation import initial_images, sample_generator
from synth_job.inversion import invert
from synth_job.job import to_pixels
from synth_job.label_sampling import random_boxes

WARM_UP = 1
"""Untimed steps at the start of each turn."""
BOXES = 4
"""Labels of each image."""
MARKERS = ("<!-- speed: begin -->", "<!-- speed: end -->")
PAGE = Path("docs/performance.md")
REFERENCE: dict[str, tuple[float, float, float]] = {
    "label sampling": (1.84, 1.25, 1.23),
    "inversion": (1.76, 1.15, 1.76),
    "qat": (1.65, 1.30, 2.77),
}
"""Of each step: how many floors the paper's public code takes, the bar here, and the bar of peak memory in GB."""


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


def main(
    teacher: Annotated[str, typer.Option(help="checkpoint of the teacher")],
    machine: Annotated[str, typer.Option(help="name of the results file")] = "cpu",
    rounds: Annotated[int, typer.Option(help="turns of each step and floor")] = 7,
    steps: Annotated[int, typer.Option(help="timed steps in each turn")] = 4,
    threads: Annotated[int, typer.Option(help="threads of PyTorch")] = 2,
    only: Annotated[
        str | None, typer.Option(help="measure one step alone, by name; the results of others stay")
    ] = None,
    device: Annotated[str, typer.Option(help="torch device")] = "cpu",
    memory_of: Annotated[str | None, typer.Option(help="internal: run this step alone, print peak memory")] = None,
) -> None:
    """Measure, write the results and the table."""
    torch.set_num_threads(threads)
    with TemporaryDirectory() as folder:
        detector = load_teacher(TeacherSource(path=teacher), torch.device(device))
        makers = {
            "label sampling": lambda: sampling(detector, 160, 16),
            "inversion": lambda: inversion(detector, 320, 8, views=False),
            "inversion, default views": lambda: inversion(detector, 320, 8, views=True),
            "inversion, 640 px": lambda: inversion(detector, 640, 4, views=False),
            "qat": lambda: training(detector, 320, 8, Path(folder)),
            "evaluation": lambda: evaluation(detector, 320, 8),
        }
        if memory_of is not None:
            makers[memory_of]().step(3)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            return
        rows = []
        for name, make in makers.items():
            if only in (None, name):
                rows.append({"step": name} | measured(make(), rounds, steps, device))
                rows[-1]["peak_gb"] = peak_memory(teacher, name, threads, device) if device == "cpu" else gpu_memory()
                print(json.dumps(rows[-1]), flush=True)
    write_results(rows, list(makers), machine, threads, device)


def measured(work: Work, rounds: int, steps: int, device: str) -> dict[str, Any]:
    """Medians in seconds, and the ratio of each floor."""
    times: list[Spent] = []
    floors: dict[str, list[Spent]] = {name: [] for name in work.floors}
    for _ in range(rounds):
        for name, floor in work.floors.items():
            for repetition in range(WARM_UP + steps):
                start = now(device)
                floor()
                if repetition >= WARM_UP:
                    floors[name].append(now(device) - start)
        times += work.step(WARM_UP + steps)[WARM_UP:]
    medians = {name: Spent.median(values) for name, values in floors.items()}
    step = Spent.median(times)
    return {
        "shape": work.shape,
        "seconds": round(step.wall, 4),
        "floors": {name: round(value.wall, 4) for name, value in medians.items()},
        "ratios": {name: round(step.wall / value.wall, 3) for name, value in medians.items()},
        "cpu_ratios": {name: round(step.cpu / value.cpu, 3) for name, value in medians.items()},
        "repetitions": len(times),
        "load": round(os.getloadavg()[0], 1),
    }


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
    """`invert`, timed between the calls of `advance`; fixed: views flip and shift, their size does not change."""
    if fixed:
        views = views.model_copy(update={"scales": (1.0,)})
    device = next(teacher.network.parameters()).device
    start = initial_images(Initialisation.LOW_FREQUENCY, 0, range(batch), size)
    labels = boxes(batch, size, len(teacher.identity.class_names))
    plain = start.to(device)
    generator = sample_generator(0, 0)  # one for all turns, so that all views take theirs

    def step(count: int) -> list[Spent]:
        moments: list[Spent] = []
        invert(
            teacher, start, labels, iterations=count + 1, learning_rate=0.05, weights=weights, views=views,
            generator=generator, advance=lambda: moments.append(now(str(device))),
        )  # fmt: skip
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
        train(student, teacher, images, config.model_copy(update={"steps": count + 1}), stage, checkpoints)
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
    images = initial_images(Initialisation.LOW_FREQUENCY, 0, range(batch), size)
    images = images.to(next(teacher.network.parameters()).device)

    def step(count: int) -> list[Spent]:
        seconds = []
        for _ in range(count):
            start = now(str(images.device))
            teacher.predict(images, confidence=0.001, iou=None, max_detections=300, multi_label=True)
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
        found.to_labels(size, [LabelOrigin.SAMPLED] * len(found))
        for found in boxes(count, size, len(teacher.identity.class_names))
    ]
    config = SynthConfig(image_size=size, images=count, shard_size=count)
    provenance = Provenance.of("synth", config.keyed(), {"teacher": teacher.identity.sha256})
    pixels = to_pixels(initial_images(Initialisation.LOW_FREQUENCY, 0, range(count), size))
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


def peak_memory(teacher: str, name: str, threads: int, device: str) -> float:
    """Resident GB of a process that does this step alone, libraries and weights included."""
    command = [sys.executable, "-m", "benchmarks.speed", "--teacher", teacher, "--memory-of", name]
    command += ["--threads", str(threads), "--device", device]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return round(int(done.stdout.split()[-1]) * 1024 / 1e9, 2)


def gpu_memory() -> float:
    """Peak GB that tensors took on the GPU since the last call."""
    peak = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 2)


def write_results(rows: list[dict[str, Any]], order: list[str], machine: str, threads: int, device: str) -> None:
    """The JSON file, and the table in the documentation; steps that were not measured now keep their rows."""
    path = Path("benchmarks/results") / f"{machine}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(path.read_text(encoding="utf-8"))["steps"] if path.exists() else []
    found = {row["step"]: row for row in [*earlier, *rows]}
    rows = [found[name] for name in order if name in found]
    facts = {"torch": torch.__version__, "threads": threads, "cores": os.cpu_count(), "device": device}
    path.write_text(json.dumps(facts | {"steps": rows}, indent=1) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(MARKERS[0])
    after = rest.split(MARKERS[1])[1]
    PAGE.write_text(f"{before}{MARKERS[0]}\n{table(rows)}\n{MARKERS[1]}{after}", encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    lines = [
        "| step | shape | floor, s | step, s | ratio | channels last | CPU time | reference | bar | GB | bar, GB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        reference, bar, memory = (f"{value:.2f}" for value in REFERENCE.get(row["step"], ()) or (0, 0, 0))
        if row["step"] not in REFERENCE:
            reference = bar = memory = ""
        other = row["ratios"].get("channels last")
        lines.append(
            f"| {row['step']} | {row['shape']} | {row['floors']['as loaded']:.3f} | {row['seconds']:.3f} "
            f"| **{row['ratios']['as loaded']:.2f}** | {'' if other is None else f'{other:.2f}'} "
            f"| {row['cpu_ratios']['as loaded']:.2f} "
            f"| {reference} | {bar} | {row['peak_gb']:.2f} | {memory} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
