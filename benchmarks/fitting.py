"""How near a calibrated student comes to its teacher where weights are fitted before they are rounded, and where not.

    uv run python -m benchmarks.fitting --teacher yolo11n.pt --calibration-set set --photos coco-train128/images

One calibration moves by as much as fitting brings, so there is one for each number of images that it is fitted on. The
judge is that of `benchmarks.recipes`, paired over photographs and calibrations.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.recipes import CPU, show
from benchmarks.schedules import photographs
from detectors.registry import load_teacher
from qat_job.decision import mean_divergence
from qat_job.images import ImageBatches
from quantization import rounding
from quantization.calibrate import calibrate
from quantization.convert import make_student
from quantization.fitting import fit_to_float
from schemas.qat_config import BitPolicy
from schemas.teacher import TeacherSource
from stages.shards import open_calibration_set

RIDGES = {"as they are": 1e9, "fitted": rounding.RIDGE}
"""By how much weights are held to their own values; the first holds them."""
BATCH = 8


def main(
    teacher: Annotated[str, typer.Option(help="checkpoint")],
    calibration_set: Annotated[Path, typer.Option(help="a set that was made from it")],
    photos: Annotated[Path, typer.Option(help="folder of photographs")],
    bits: Annotated[str, typer.Option(help="of weights and activations, comma-separated")] = "4:8",
    images: Annotated[str, typer.Option(help="numbers of images, comma-separated")] = "20,26,32",
    judged_on: Annotated[int, typer.Option(help="photographs")] = 48,
) -> None:
    """Print a table."""
    full = load_teacher(TeacherSource(path=teacher), CPU)
    made = open_calibration_set(calibration_set)
    batches, judges = ImageBatches(made, CPU), photographs(full, photos, judged_on, made.manifest.image_size)
    print(
        "| bits | weights | KL | of each calibration | against the first |\n| --- | --- | --- | --- | --- |", flush=True
    )
    for pair in bits.split(","):
        weights, activations = map(int, pair.split(":"))
        first = None
        for name, ridge in RIDGES.items():
            rounding.RIDGE = ridge
            rows = []
            for count in map(int, images.split(",")):
                student = make_student(full, BitPolicy(weight_bits=weights, activation_bits=activations))
                calibrate(student.network, lambda: batches.in_order(128, BATCH), student.head_outputs)
                fit_to_float(student, next(batches.in_order(count, count)), compensate=True)
                rows.append([mean_divergence(student, full, [image])[0] for image in judges])
            found = np.array(rows)
            first = found if first is None else first
            show(pair, name, found, first)


if __name__ == "__main__":
    typer.run(main)
