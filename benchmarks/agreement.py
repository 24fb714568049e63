"""How well agreement with full precision, which needs no labels, predicts the share of mAP that students keep.

    uv run python -m benchmarks.agreement --teacher yolo11n.pt --set set320 --held-back set320/held-back \
        --data coco-val128

A row for each pair of bits: agreement on the held-back images and on the validation images without their labels, and
the share of mAP on them. Students are calibrated; those of `--train` are trained too, a second row. Divergences are
those of the outputs from full precision, on the set, held back and on the photographs. The picture shows shares over
both agreements.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
import typer

from detectors.average_precision import evaluate_boxes
from detectors.detections import Detections
from detectors.protocol import Detector
from detectors.registry import load_teacher
from detectors.self_labels import self_labels
from eval_job.data import find_validation_data
from eval_job.evaluate import InferenceSettings, network_input, predict
from eval_job.measure import measure, self_labelled
from eval_job.unlabelled import HeldBack
from label_formats.images import ValidationImage
from qat_job.checkpoint import Checkpoints
from qat_job.decision import MAX_IMAGES, mean_divergence
from qat_job.images import ImageBatches
from qat_job.job import calibrate_student, fit_on_set
from qat_job.team import Team
from qat_job.training import Training
from qat_job.training import train as train_student
from quantization.convert import make_student
from schemas.image_size import ImageSize
from schemas.provenance import Provenance
from schemas.qat_config import BitPolicy, QatConfig
from schemas.teacher import TeacherSource
from stages.ranks import Rank
from stages.shards import open_calibration_set
from stages.stage import Stage

CPU = torch.device("cpu")
CONFIDENCE = 0.25
STAGE = Stage("qat")


@dataclass(frozen=True)
class Point:
    """A student's row."""

    name: str
    held_back: float
    photographs: float
    share: float


def main(
    teacher: Annotated[str, typer.Option(help="checkpoint")],
    calibration_set: Annotated[Path, typer.Option("--set", help="that students are calibrated on")],
    held_back: Annotated[Path, typer.Option(help="set of another seed")],
    data: Annotated[str, typer.Option(help="labelled images")],
    size: Annotated[int, typer.Option(help="pixels")] = 320,
    images: Annotated[int, typer.Option(help="of the labelled ones, at most")] = 64,
    bits: Annotated[str, typer.Option(help="pairs, comma-separated")] = "8:8,6:8,8:6,6:6,5:5,4:8,3:8,4:4",
    train: Annotated[str, typer.Option(help="pairs that are trained too")] = "",
    steps: Annotated[int, typer.Option(help="of training")] = 100,
    picture: Annotated[Path | None, typer.Option(help="where the picture goes")] = None,
) -> None:
    full = load_teacher(TeacherSource(path=teacher), CPU)
    names, square = full.identity.class_names, ImageSize.square(size)

    def look(detector: Detector, seen: Sequence[ValidationImage]) -> list[Detections]:
        return predict(detector, list(seen), CPU, InferenceSettings(square, batch=16)).detections

    batches = ImageBatches(open_calibration_set(calibration_set), CPU)
    validation = find_validation_data(data, None).read(names)
    validation = replace(validation, images=validation.images[:images])
    held = self_labelled(
        HeldBack(held_back), "0" * 64, square, lambda seen: look(full, seen), CONFIDENCE, names
    ).validation  # fmt: skip
    found = look(full, validation.images)
    labels, _ = self_labels(found, CONFIDENCE)
    whole = measure(validation, found, names).summary.map50_95

    def point(name: str, student: Detector) -> Point:
        found = look(student, validation.images)
        return Point(
            name,
            measure(held, look(student, held.images), names).summary.map50_95,
            evaluate_boxes(labels, found, names).summary.map50_95,
            measure(validation, found, names).summary.map50_95 / whole,
        )

    photographs = [
        network_input([full.letterbox(image.pixels(), square)[0]], CPU) for image in validation.images[:MAX_IMAGES]
    ]
    judges = {
        "set": list(batches.in_order(MAX_IMAGES, 1)),
        "held back": list(ImageBatches(open_calibration_set(held_back), CPU).in_order(MAX_IMAGES, 1)),
        "photographs": photographs,
    }

    def divergences(student: Detector) -> str:
        return " | ".join(f"{mean_divergence(student, full, seen)[0]:.3f}" for seen in judges.values())

    print(f"| student | {' | '.join(f'divergence, {name}' for name in judges)} "
          "| agreement, held back | agreement, photographs | share of mAP |")  # fmt: skip
    print(f"| --- |{' --- |' * 6}")
    points: list[Point] = []
    for pair in bits.split(","):
        weights, activations = (int(part) for part in pair.split(":"))
        policy = BitPolicy(weight_bits=weights, activation_bits=activations)
        settings = QatConfig(bits=policy, checkpoint_interval=10**6)
        student = make_student(full, policy)
        calibrated = calibrate_student(student, batches, settings, STAGE)
        points.append(point(f"W{weights}A{activations}", calibrated))
        print_row(points[-1], divergences(calibrated))
        if pair in train.split(","):
            settings = settings.model_copy(update={"steps": steps})
            fit_on_set(student, batches, settings, trained=True)
            trained_on(student, full, batches, settings)
            points.append(point(f"W{weights}A{activations}, trained", student))
            print_row(points[-1], divergences(student))
    for kind in ("held_back", "photographs"):
        print(f"rank correlation of {kind}: {rank_correlation(points, kind):.2f} over {len(points)} students")
    if picture is not None:
        draw(points, picture)


def trained_on(student: Detector, full: Detector, batches: ImageBatches, settings: QatConfig) -> None:
    """Train in place, as `qat` does, without checkpoints."""
    with TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), Provenance.of("qat", {}, {}), 1)
        train_student(Training(student, full, settings, Team(Rank(), CPU)), batches, STAGE, checkpoints)


def print_row(point: Point, divergences: str) -> None:
    cells = (point.name, divergences, f"{point.held_back:.3f}", f"{point.photographs:.3f}", f"{point.share:.1%}")
    print(f"| {' | '.join(cells)} |", flush=True)


def rank_correlation(points: list[Point], kind: str) -> float:
    """Spearman's, of an agreement with the share of mAP."""

    def ranks(values: list[float]) -> list[float]:
        return [
            sum(other < value for other in values) + sum(other == value for other in values) / 2 for value in values
        ]

    pairs = ranks([getattr(each, kind) for each in points]), ranks([each.share for each in points])
    return float(np.corrcoef(*pairs)[0, 1])


def draw(points: list[Point], path: Path) -> None:
    """Shares of mAP over agreement, one mark for each student."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for each, kind, title in zip(
        axes, ("held_back", "photographs"), ("held-back synthetic images", "photographs"), strict=True
    ):
        for point in points:
            trained = point.name.endswith("trained")
            value = getattr(point, kind)
            each.scatter(
                value, 100 * point.share, color="#0b62a8" if trained else "#222222", marker="o" if trained else "s"
            )
            name = point.name.removesuffix(", trained")
            each.annotate(name, (value, 100 * point.share), textcoords="offset points", xytext=(5, -10), fontsize=8)
        each.set_xlabel(f"agreement with full precision on {title}")
        each.grid(alpha=0.3)
    axes[0].set_ylabel("share of full precision's mAP50-95, %")
    axes[0].set_title("squares: calibrated; discs: trained", fontsize=9, loc="left")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    typer.run(main)
