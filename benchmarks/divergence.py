"""How near finished students are to their teacher on photographs, each paired with the first.

    uv run python -m benchmarks.divergence --teacher yolo11n.pt --photos coco-train128/images \
        --student students/w4a8 --student students/w4a8/ptq

The judge is that of `benchmarks.recipes`: the divergence of outputs from full precision, at the size of the set that
the student was made with. The interval is 1.96 standard errors over photographs.
"""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.recipes import CPU, divergences
from benchmarks.schedules import against, photographs
from detectors.registry import load_teacher
from schemas.student import MANIFEST, StudentManifest
from schemas.teacher import TeacherSource


def main(
    teacher: Annotated[str, typer.Option(help="checkpoint")],
    photos: Annotated[Path, typer.Option(help="folder of photographs")],
    student: Annotated[list[Path], typer.Option(help="folder of a student; the first is compared with")],
    judged_on: Annotated[int, typer.Option(help="photographs")] = 48,
) -> None:
    """Print a table."""
    full = load_teacher(TeacherSource(path=teacher), CPU)
    size = StudentManifest.read(student[0] / MANIFEST).calibration_set.image_size
    judges = photographs(full, photos, judged_on, size)
    print("| student | KL | against the first |\n| --- | --- | --- |", flush=True)
    first = None
    for folder in student:
        found = divergences(full, folder, judges)[None]  # of one seed
        first = found if first is None else first
        print(f"| {folder} | {found.mean():.3f} | {against(found, first)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
