"""Memory that is counted of a pixel in each stage; peaks of a QAT step by its batch, and of correction by its images.

    uv run python -m benchmarks.training_memory --teacher yolo11n.pt --calibration-set set

Resident memory falls little when tensors go, so that a row holds what those before it left; both columns are printed.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.gpu.memory import peak_memory, reset_peak_memory
from detectors.memory import live_bytes, per_pixel
from detectors.registry import load_teacher
from qat_job.images import ImageBatches
from qat_job.team import Team
from qat_job.training import Training
from quantization.calibrate import calibrate
from quantization.convert import make_student
from quantization.fitting import fit_to_float
from schemas.qat_config import BitPolicy, QatConfig
from schemas.synth_config import LossWeights
from schemas.teacher import TeacherSource
from stages.memory import own_memory
from stages.ranks import Rank
from stages.shards import open_calibration_set
from synth_job.inversion import Inversion

CPU = torch.device("cpu")


def main(
    teacher: Annotated[str, typer.Option(help="checkpoint of the teacher")],
    calibration_set: Annotated[Path, typer.Option(help="a set that was made from it")],
    batches: Annotated[str, typer.Option(help="images of a step, comma-separated")] = "1,2,3",
    corrected: Annotated[str, typer.Option(help="images that outputs are corrected on")] = "8,16,32",
    threads: Annotated[int, typer.Option(help="threads of PyTorch")] = 2,
) -> None:
    """Print the bytes that are counted, and what is resident before and at the peak."""
    torch.set_num_threads(threads)
    detector = load_teacher(TeacherSource(path=teacher), CPU)
    images = ImageBatches(open_calibration_set(calibration_set), CPU)
    config = QatConfig(bits=BitPolicy(weight_bits=4), steps=100)
    inversion, weights = Inversion(detector), LossWeights()
    kept = per_pixel(detector, lambda image, labels: inversion.kept_bytes(image, labels, weights))
    print(f"bytes a pixel: {kept:.1f} kept by a step of inversion")
    student = make_student(detector, config.bits)
    calibrate(student.network, lambda: images.in_order(1, 1), student.head_outputs)
    live = per_pixel(detector, lambda image, _: live_bytes(lambda: student.head_outputs(image)))
    with Training(student.copy(), detector, config, Team(Rank(), CPU)) as training:
        print(f"bytes a pixel: {live:.1f} live forward, {per_pixel(detector, training.kept_bytes):.1f} kept by a step")
        for batch in map(int, batches.split(",")):
            pixels, labels = next(images.in_order(batch, batch)), images.labels(batch)
            before = started()
            training.step(pixels, labels)
            print(f"training, {batch} images: {before:.2f}, {peak_memory(CPU):.2f} GB", flush=True)
    del training
    for count in map(int, corrected.split(",")):
        pixels = next(images.in_order(count, count))
        before = started()
        fit_to_float(student.copy(), pixels, compensate=True)
        print(f"correction, {count} images: {before:.2f}, {peak_memory(CPU):.2f} GB", flush=True)


def started() -> float:
    """Resident GB now; the peak counts from here."""
    reset_peak_memory(CPU)
    return own_memory() / 1e9


if __name__ == "__main__":
    typer.run(main)
