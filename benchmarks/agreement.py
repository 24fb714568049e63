"""How well agreement with full precision, which needs no labels, predicts the share of mAP that students keep.

    uv run python -m benchmarks.agreement --teacher yolo11n.pt --set set320 --held-back set320/held-back \
        --data coco-val128

A row for each pair of bits, students that are calibrated only: the divergence of outputs that decides about training,
agreement on the held-back images and on the validation images without their labels, and the share of mAP on them.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from detectors.average_precision import evaluate_boxes
from detectors.detections import Detections
from detectors.protocol import Detector
from detectors.registry import load_teacher
from detectors.self_labels import self_labels
from eval_job.data import find_validation_data
from eval_job.evaluate import Look, predict
from eval_job.measure import measure, self_labelled
from eval_job.unlabelled import HeldBack
from label_formats.images import ValidationImage
from qat_job.decision import decide
from qat_job.images import ImageBatches
from qat_job.job import calibrate_student
from quantization.convert import make_student
from schemas.image_size import ImageSize
from schemas.qat_config import BitPolicy, QatConfig
from schemas.teacher import TeacherSource
from stages.shards import open_calibration_set
from stages.stage import Stage

CPU = torch.device("cpu")
CONFIDENCE = 0.25


def main(
    teacher: Annotated[str, typer.Option(help="checkpoint")],
    calibration_set: Annotated[Path, typer.Option("--set", help="that students are calibrated on")],
    held_back: Annotated[Path, typer.Option(help="set of another seed")],
    data: Annotated[str, typer.Option(help="labelled images")],
    size: Annotated[int, typer.Option(help="pixels")] = 320,
    images: Annotated[int, typer.Option(help="of the labelled ones, at most")] = 64,
    bits: Annotated[str, typer.Option(help="pairs, comma-separated")] = "8:8,6:8,8:6,6:6,5:5,4:8,3:8,4:4",
) -> None:
    full = load_teacher(TeacherSource(path=teacher), CPU)
    names = full.identity.class_names

    def look(detector: Detector, seen: list[ValidationImage]) -> list[Detections]:
        return predict(detector, seen, CPU, Look(ImageSize.square(size), batch=16)).detections

    batches = ImageBatches(open_calibration_set(calibration_set), CPU)
    validation = find_validation_data(data, None).read(names)
    validation = replace(validation, images=validation.images[:images])
    held = self_labelled(
        HeldBack(held_back), "0" * 64, size, lambda seen: look(full, list(seen)), CONFIDENCE, names
    ).validation  # fmt: skip
    found = look(full, validation.images)
    labels, _ = self_labels(found, CONFIDENCE)
    whole = measure(validation, found, names).summary.map50_95
    print("| bits | divergence | on held-back images | on photographs | share of mAP |")
    print("| --- | --- | --- | --- | --- |")
    stage = Stage("qat")
    for pair in bits.split(","):
        weights, activations = (int(part) for part in pair.split(":"))
        settings = QatConfig(bits=BitPolicy(weight_bits=weights, activation_bits=activations))
        student = calibrate_student(make_student(full, settings.bits), batches, settings, stage)
        decision = decide(student, full, batches, settings, stage)
        assert decision is not None  # steps are auto
        on_held = measure(held, look(student, held.images), names).summary.map50_95
        found = look(student, validation.images)
        on_photos = evaluate_boxes(labels, found, names).summary.map50_95
        kept = measure(validation, found, names).summary.map50_95 / whole
        cells = [f"{value:.3f}" for value in (decision.divergence, on_held, on_photos)]
        print(f"| W{weights}A{activations} | {' | '.join(cells)} | {kept:.1%} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
