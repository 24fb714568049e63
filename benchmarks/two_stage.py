"""How far the files of a two-stage detector are from it and from its student, on real images, and how fast they are.

    uv run python -m benchmarks.two_stage "Faster R-CNN, ResNet-50 v1" --calibration coco-train128 --images coco-val128

The detector is one of `tests/conformance/cases.py`, with random weights, or a checkpoint (`--teacher`).
"""

import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from torch import Tensor

from detectors.protocol import Detector
from detectors.registry import load_teacher
from quantization.calibrate import calibrate
from quantization.convert import make_student
from quantization.onnx.engine import open_engine, seconds_of
from quantization.onnx.export import export_full_precision, export_student, trace_student
from quantization.onnx.parity import measure_parity
from schemas.image_size import ImageSize
from schemas.qat_config import BitPolicy
from schemas.student import ExportForm
from schemas.target import Target
from schemas.teacher import TeacherSource
from tests.conformance.cases import CASES
from tests.conformance.checks import CPU, Subject

TARGETS = (Target.GENERIC, Target.ONNXRUNTIME, Target.OPENVINO)
RUNS = 7


def main(
    case: Annotated[str, typer.Argument(help="row of docs/families.md")],
    calibration: Annotated[Path, typer.Option(help="folder of images that the student is calibrated on")],
    images: Annotated[Path, typer.Option(help="folder of images that outputs are compared on")],
    teacher: Annotated[Path | None, typer.Option(help="checkpoint; else random weights")] = None,
    size: Annotated[int, typer.Option(help="side, pixels")] = 320,
    count: Annotated[int, typer.Option(help="images of each folder")] = 8,
) -> None:
    """Print a row for each file."""
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subject = Subject(next(each for each in CASES if each.name == case), folder)
        detector = subject.teacher
        if teacher is not None:
            detector = load_teacher(TeacherSource(path=str(teacher), family="torchvision"), CPU)
        seen, real = (letterboxed(detector, each, size, count) for each in (calibration, images))
        single, half = folder / "fp32.onnx", folder / "fp16.onnx"
        export_full_precision(detector, ImageSize.square(size), single, half)
        for path in (single, half):
            show(detector, path, real, size)
        student = make_student(detector, BitPolicy())
        with torch.no_grad():
            calibrate(student.network, lambda: list(seen.split(2)), student.head_outputs)
        saved, manifest = subject.saved(student, 8)
        traced = trace_student(saved, manifest)
        for target in TARGETS:
            path = folder / f"{target.value}.onnx"
            made = export_student(traced, path, seen, ExportForm(target=target, image_size=size))
            print(
                f"{target.value}: integer {dict(made.census.integer)}, {len(made.census.float_layers)} layers in float"
            )
            show(saved, path, real, size)


def letterboxed(detector: Detector, folder: Path, size: int, count: int) -> Tensor:
    """The first images of a folder as the family has them, `(count, 3, size, size)`."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png"))[:count]
    arrays = [
        detector.letterbox(np.array(Image.open(path).convert("RGB")), ImageSize.square(size))[0] for path in files
    ]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def show(detector: Detector, path: Path, images: Tensor, size: int) -> None:
    """Differences from a detector, and the median time of one image in ONNX Runtime with one thread."""
    found = measure_parity(detector, path, images, size)
    engine, one = open_engine(path, threads=1), images[:1].contiguous().numpy()
    seconds = statistics.median(seconds_of(engine, one) for _ in range(RUNS))
    print(
        f"{path.name}: scores {found.score_mean:.1e} off on average, {found.score_max:.1e} at most; boxes "
        f"{found.box_mean:.2g} px, {found.box_max:.2g} px; {found.matched:.0%} of rows paired; "
        f"{1000 * seconds:.0f} ms; {path.stat().st_size / 1e6:.1f} MB",
        flush=True,
    )


if __name__ == "__main__":
    typer.run(main)
