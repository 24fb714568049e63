"""The picture of the README: images of a calibration set, and what a student detects on one of them.

uv run python -m benchmarks.readme_picture sets/synthetic640 student docs/pictures/set-and-detection.jpg
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image

from benchmarks.teacher_agreement import unlabelled
from detectors.protocol import Suppression
from eval_job.evaluate import InferenceSettings, predict
from quantization.student import load_student
from schemas.image_size import ImageSize
from schemas.labels import LabelOrigin
from stages.shards import open_calibration_set
from synth_job.contact_sheet import annotated

ROWS, COLUMNS, GAP, CELL = 2, 4, 6, 220
CONFIDENT = 0.25


def main(
    calibration_set: Annotated[Path, typer.Argument(help="folder of a set")],
    student: Annotated[Path, typer.Argument(help="folder of a student")],
    output: Annotated[Path, typer.Argument(help="JPEG file")],
    shown: Annotated[int, typer.Option(help="number of the image that is detected on")] = 0,
) -> None:
    """Write the picture."""
    detector, _ = load_student(student, torch.device("cpu"))
    names, samples = detector.identity.class_names, open_calibration_set(calibration_set).samples
    pixels = samples[shown].image()
    look = InferenceSettings(ImageSize(*pixels.shape[:2]), 1, Suppression(CONFIDENT, iou=0.7))
    found = predict(detector, [unlabelled(shown, pixels)], torch.device("cpu"), look).detections[0]
    detected = found.to_labels(ImageSize(*pixels.shape[:2]), [LabelOrigin.RELABELLED] * len(found))
    large = ROWS * CELL + GAP
    picture = Image.new("RGB", (COLUMNS * (CELL + GAP) + 2 * GAP + large, large), "white")
    for number in range(ROWS * COLUMNS):
        row, column = divmod(number, COLUMNS)
        at = (column * (CELL + GAP), row * (CELL + GAP))
        picture.paste(annotated(samples[number], names, CELL), at)
    right = annotated(replace(samples[shown], labels=detected), names, large)
    picture.paste(right, (COLUMNS * (CELL + GAP) + 2 * GAP, 0))
    output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(output, quality=85)


if __name__ == "__main__":
    typer.run(main)
