"""How far students agree with their teacher, where there are no labelled images.

    uv run python -m benchmarks.teacher_agreement --student student --teacher best.pt --family yolov5 --images photos

The teacher's confident detections are the labels. Images come from a folder, or from a set no student was made with.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from detectors.average_precision import average_precision
from detectors.protocol import Suppression
from detectors.registry import load_teacher
from eval_job.evaluate import InferenceSettings, predict
from label_formats.images import IMAGE_SUFFIXES, ValidationImage
from quantization.student import load_student
from schemas.image_size import ImageSize
from schemas.teacher import Family, TeacherSource
from stages.shards import open_calibration_set

CPU = torch.device("cpu")


def main(
    student: Annotated[list[Path], typer.Option(help="folder of a student; several may be given")],
    teacher: Annotated[str, typer.Option(help="checkpoint of the teacher")],
    family: Annotated[str, typer.Option(help="its family")] = "ultralytics",
    calibration_set: Annotated[Path | None, typer.Option(help="a set that no student was made with")] = None,
    images: Annotated[Path | None, typer.Option(help="or a folder of images")] = None,
    size: Annotated[int, typer.Option(help="image side, pixels")] = 320,
    confident: Annotated[float, typer.Option(help="score from which a detection of the teacher is a label")] = 0.25,
) -> None:
    """Print mAP of each student on the confident detections of its teacher."""
    looked_at = [*_of_set(calibration_set), *_of_folder(images)]
    chosen: Family = family  # type: ignore[assignment]  # pydantic checks it
    full = load_teacher(TeacherSource(path=teacher, family=chosen), CPU)
    names = full.identity.class_names
    truth = predict(
        full, looked_at, CPU, InferenceSettings(ImageSize.square(size), 8, Suppression(confident, iou=0.7))
    ).detections
    print(f"{len(looked_at)} images, {sum(map(len, truth))} detections of the teacher above {confident}\n")
    print("| student | mAP50-95 | mAP50 |\n| --- | --- | --- |")
    for folder in student:
        detector, manifest = load_student(folder, CPU)
        found = predict(
            detector, looked_at, CPU, InferenceSettings(ImageSize.square(size), 8, Suppression(0.001, iou=0.7))
        ).detections
        summary, _ = average_precision(truth, found, names)
        print(f"| {manifest.method.value} {manifest.bits.name} | {summary.map50_95:.3f} | {summary.map50:.3f} |")


def _of_set(folder: Path | None) -> list[ValidationImage]:
    samples = open_calibration_set(folder).samples if folder else []
    return [unlabelled(number, sample.image()) for number, sample in enumerate(samples)]


def _of_folder(folder: Path | None) -> list[ValidationImage]:
    files = sorted(folder.iterdir()) if folder else []
    return [unlabelled(n, file) for n, file in enumerate(files) if file.suffix.lower() in IMAGE_SUFFIXES]


def unlabelled(number: int, source: object) -> ValidationImage:
    nothing = np.zeros(0, dtype=np.int64)
    return ValidationImage(number, source, np.zeros((0, 4), np.float32), nothing, nothing.astype(np.bool_))  # type: ignore[arg-type]


if __name__ == "__main__":
    typer.run(main)
