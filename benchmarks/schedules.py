"""What cheaper ways to make a calibration set cost, judged by the students that are made with their sets.

    uv run python -m benchmarks.schedules --teacher yolo11n.pt --photos coco-train128/images --sets runs/schedules \
        --schedule "default" --schedule "half labels: labels.iterations=100 labels.warm_up=50 labels.interval=25"

A schedule is a name and settings of synth. Each makes a set of every seed by `zsq synth`, whose processor time is
taken; a folder that is there is taken as it is, with the time of its manifest. Students are calibrated on the sets, not
trained, and judged by the divergence of their outputs from full precision on photographs, paired with the first
schedule: same photographs, same seeds. The interval is 1.96 standard errors over photographs of the mean over seeds.
"""

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from detectors.protocol import Detector
from detectors.registry import load_teacher
from eval_job.evaluate import network_input
from label_formats.images import read_image
from qat_job.decision import mean_divergence
from qat_job.images import ImageBatches
from qat_job.job import calibrate_student
from quantization.convert import make_student
from schemas.image_size import ImageSize
from schemas.qat_config import BitPolicy, QatConfig
from schemas.teacher import TeacherSource
from stages.shards import open_calibration_set
from stages.stage import Stage

CPU = torch.device("cpu")
STAGE = Stage("qat")
COST = "processor-seconds.json"


@dataclass(frozen=True)
class Schedule:
    """Settings of synth by a name."""

    name: str
    settings: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        name, _, settings = text.partition(":")
        return cls(name.strip(), tuple(settings.split()))


def main(
    teacher: Annotated[str, typer.Option(help="checkpoint")],
    photos: Annotated[Path, typer.Option(help="folder of photographs")],
    sets: Annotated[Path, typer.Option(help="where the sets lie")],
    schedule: Annotated[list[str], typer.Option(help="NAME or NAME: SETTING=VALUE ...; the first is compared with")],
    size: Annotated[int, typer.Option(help="pixels")] = 640,
    images: Annotated[int, typer.Option(help="of a set")] = 16,
    seeds: Annotated[int, typer.Option(help="sets of each schedule")] = 3,
    judged_on: Annotated[int, typer.Option(help="photographs")] = 48,
    bits: Annotated[str, typer.Option(help="pairs, comma-separated")] = "8:8,4:8",
) -> None:
    full = load_teacher(TeacherSource(path=teacher), CPU)
    judges = photographs(full, photos, judged_on, ImageSize.square(size))
    schedules = [Schedule.parse(text) for text in schedule]
    pairs = [tuple(map(int, pair.split(":"))) for pair in bits.split(",")]
    found: dict[str, list[NDArray[np.float64]]] = {}
    for each in schedules:
        made = [make_set(each, sets, teacher, size, images, seed) for seed in range(seeds)]
        seconds = np.mean([json.loads((folder / COST).read_text()) for folder in made]) / images
        for weights, activations in pairs:
            policy = BitPolicy(weight_bits=weights, activation_bits=activations)
            by_seed = np.stack([divergences(full, folder, policy, judges) for folder in made])
            found.setdefault(policy.name, []).append(by_seed)
            compared = against(by_seed, found[policy.name][0])
            by_seed_mean = ", ".join(f"{value:.3f}" for value in by_seed.mean(axis=1))
            cells = (each.name, f"{seconds:.1f}", policy.name, f"{by_seed.mean():.3f}", by_seed_mean, compared)
            print(f"| {' | '.join(cells)} |", flush=True)


def against(by_seed: NDArray[np.float64], first: NDArray[np.float64]) -> str:
    """The mean difference, `(seeds, photographs)` each, with its interval over photographs."""
    if by_seed is first:
        return ""
    paired = (by_seed - first).mean(axis=0)
    return f"{paired.mean():+.3f} ± {1.96 * paired.std(ddof=1) / np.sqrt(len(paired)):.3f}"


def photographs(full: Detector, folder: Path, count: int, size: ImageSize) -> list[Tensor]:
    """The first images of a folder as the network takes them, `(1, 3, H, W)` each."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png"))[:count]
    return [network_input([full.letterbox(read_image(path), size)[0]], CPU) for path in files]


def make_set(schedule: Schedule, sets: Path, teacher: str, size: int, images: int, seed: int) -> Path:
    """A set by the command line, unless it is there; its processor time is written beside it."""
    folder = sets / f"{schedule.name.replace(' ', '-')}-{size}-{images}-{seed}"
    if (folder / COST).exists():
        return folder
    settings = (f"teacher.path={teacher}", f"image_size={size}", f"images={images}", f"seed={seed}", *schedule.settings)
    options = [part for setting in settings for part in ("--set", setting)]
    before = _children()
    subprocess.run(
        [sys.executable, "-m", "synth_job", "--output", str(folder), *options],
        check=True,
        env=os.environ | {"NO_COLOR": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (folder / COST).write_text(json.dumps(_children() - before))
    return folder


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def divergences(full: Detector, folder: Path, policy: BitPolicy, judges: list[Tensor]) -> NDArray[np.float64]:
    """Of the student calibrated on a set, from full precision on each photograph."""
    batches = ImageBatches(open_calibration_set(folder), CPU)
    student = calibrate_student(make_student(full, policy), batches, QatConfig(bits=policy), STAGE)
    return np.array([mean_divergence(student, full, [image])[0] for image in judges])


if __name__ == "__main__":
    typer.run(main)
