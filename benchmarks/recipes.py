"""How near students come to their teacher by one recipe of training and by another, at equal steps.

    uv run python -m benchmarks.recipes --teacher yolo11n.pt --calibration-set set --photos coco-train128/images \
        --output runs/recipes --recipe "scales" --recipe "weights too: learn_weights=true"

A recipe is a name and settings of qat. Each trains a student of every seed by `zsq qat`; finished ones are up to date.
The judge is the divergence of outputs from full precision on photographs, which sees smaller differences than the mAP
of as many images does, paired with the first recipe: same photographs, same seeds. The interval is 1.96 standard errors
over photographs of the mean over seeds. What training started from, calibrated, has a row of its own.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.jobs import run_job
from benchmarks.schedules import Schedule, against, photographs
from detectors.protocol import Detector
from detectors.registry import load_teacher
from qat_job.decision import mean_divergence
from quantization.student import load_student
from schemas.student import PTQ_FOLDER
from schemas.teacher import TeacherSource
from stages.shards import open_calibration_set

CPU = torch.device("cpu")


def main(
    teacher: Annotated[str, typer.Option(help="checkpoint")],
    calibration_set: Annotated[Path, typer.Option(help="a set that was made from it")],
    photos: Annotated[Path, typer.Option(help="folder of photographs")],
    output: Annotated[Path, typer.Option(help="where the students lie")],
    recipe: Annotated[list[str], typer.Option(help="NAME or NAME: SETTING=VALUE ...; the first is compared with")],
    bits: Annotated[str, typer.Option(help="pairs, comma-separated")] = "6:6,4:8,4:4",
    steps: Annotated[int, typer.Option(help="of training")] = 100,
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "0,1,2",
    judged_on: Annotated[int, typer.Option(help="photographs")] = 64,
) -> None:
    """Print a table."""
    full = load_teacher(TeacherSource(path=teacher), CPU)
    size = open_calibration_set(calibration_set).manifest.image_size
    judges = photographs(full, photos, judged_on, size)
    print("| bits | recipe | KL | of each seed | against the first |\n| --- | --- | --- | --- | --- |", flush=True)
    for pair in bits.split(","):
        weights, activations = pair.split(":")
        folder = output / f"{weights}-{activations}-{steps}"
        common = (f"bits.weight_bits={weights}", f"bits.activation_bits={activations}", f"steps={steps}")
        first = None
        for each in map(Schedule.parse, recipe):
            students = [folder / f"{each.name.replace(' ', '-')}-{seed}" for seed in seeds.split(",")]
            for student, seed in zip(students, seeds.split(","), strict=True):
                train(teacher, calibration_set, student, (*common, f"seed={seed}", *each.settings))
            if first is None:
                calibrated = np.stack([divergences(full, students[0] / PTQ_FOLDER, judges)])
                show(pair, "calibrated", calibrated, calibrated)
            found = np.stack([divergences(full, student, judges) for student in students])
            first = found if first is None else first
            show(pair, each.name, found, first)


def train(teacher: str, calibration_set: Path, output: Path, settings: tuple[str, ...]) -> None:
    """A student by the command line; the trained one is kept whether it is better or not."""
    given = (f"teacher.path={teacher}", "targets=[]", "keep_better=false", *settings)
    options = [part for setting in given for part in ("--set", setting)]
    run_job("qat_job", "--calibration-set", str(calibration_set), "--output", str(output), *options)


def divergences(full: Detector, folder: Path, judges: list[Tensor]) -> NDArray[np.float64]:
    """Of a student from full precision on each photograph."""
    student, _ = load_student(folder, CPU)
    return np.array([mean_divergence(student, full, [image])[0] for image in judges])


def show(bits: str, name: str, found: NDArray[np.float64], first: NDArray[np.float64]) -> None:
    """A row; `found` and `first` are `(seeds, photographs)`."""
    by_seed = ", ".join(f"{value:.3f}" for value in found.mean(axis=1))
    print(f"| {bits} | {name} | {found.mean():.3f} | {by_seed} | {against(found, first)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
