"""Which measure of sensitivity predicts the mAP that a layer costs?

Quantizes the weights of one layer at a time, everything else in float, and measures the mAP lost on *development*
images. Beside it, measures of sensitivity that need the calibration set alone. Prints how well they correlate.

    uv run python -m benchmarks.sensitivity_metrics --teacher yolo11n.pt --calibration-set sets/synthetic \
        --data coco-train128 --size 320 --layers 14 --bits 2 --images 16 --output runs/metrics.jsonl
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks.layer_scan import quantized_weight
from detectors.average_precision import average_precision
from detectors.detections import Detections
from detectors.protocol import Detector, Suppression
from detectors.registry import load_teacher
from eval_job.data import find_validation_data
from eval_job.evaluate import InferenceSettings, predict
from label_formats.images import ValidationSet
from qat_job.distillation import FeatureTap, feature_error, output_divergence
from qat_job.images import ImageBatches
from qat_job.sensitivity.agreement import agreement
from quantization.convert import in_float, make_student, quantized_layers
from quantization.layers import QuantizedLayer
from schemas.image_size import ImageSize
from schemas.qat_config import BitPolicy
from schemas.teacher import TeacherSource
from stages.progress import Reporter
from stages.shards import open_calibration_set

CPU = torch.device("cpu")
BATCH = 8
BOX_WEIGHTS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0)
SMALLEST = 1e-6
"""Keeps logarithms finite where a measure is 0 or negative."""


def main(
    teacher: Annotated[str, typer.Option(help="checkpoint of the teacher")],
    calibration_set: Annotated[Path, typer.Option(help="folder of the calibration set")],
    data: Annotated[str, typer.Option(help="development images with labels")],
    output: Annotated[Path, typer.Option(help="JSON lines, one a layer")],
    size: Annotated[int, typer.Option(help="development image side, pixels")] = 320,
    layers: Annotated[int, typer.Option(help="layers of the sample, evenly through the network")] = 24,
    bits: Annotated[int, typer.Option(help="weight bits of the layer")] = 2,
    images: Annotated[int, typer.Option(help="calibration images")] = 32,
) -> None:
    """Measure a sample of layers and print the correlations."""
    detector = load_teacher(TeacherSource(path=teacher), CPU)
    student = make_student(detector, BitPolicy(weight_bits=8))
    calibration = ImageBatches(open_calibration_set(calibration_set), CPU)
    batches, labels = list(calibration.in_order(images, BATCH)), calibration.labels(images)
    development = find_validation_data(data, None).read(detector.identity.class_names)
    names = list(quantized_layers(student.network))
    sample = [names[round(position)] for position in np.linspace(0, len(names) - 1, layers)]

    rows: list[dict[str, float | str]] = []
    with in_float(student.network):
        measures = calibration_measures(student, batches, labels)
        full_precision = mean_average_precision(student, development, size)
        for name in Reporter("sensitivity metrics").track(sample, "layers", "layer"):
            layer = quantized_layers(student.network)[name]
            original = layer.weight.detach().clone()
            with torch.no_grad(), quantized_weight(layer, bits):
                row: dict[str, float | str] = {
                    "layer": name,
                    "lost": full_precision - mean_average_precision(student, development, size),
                    "weight error": float((layer.weight - original).square().sum() / original.square().sum()),
                    "Fisher": fisher(layer, original),
                }
                row |= {measure: value() for measure, value in measures.items()}
            rows.append(row)
            output.parent.mkdir(parents=True, exist_ok=True)
            with output.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
    lost = [float(row["lost"]) for row in rows]
    print(f"{len(rows)} layers at {bits} bits, full precision {full_precision:.4f}, largest loss {max(lost):.4f}")
    print("| measure | rank correlation with the mAP lost | correlation of logarithms |\n| --- | --- | --- |")
    for measure in list(rows[0])[2:]:
        values = [float(row[measure]) for row in rows]
        logarithms = np.log(np.maximum([values, lost], SMALLEST))
        print(f"| {measure} | {rank_correlation(values, lost):.2f} | {np.corrcoef(*logarithms)[0, 1]:.2f} |")


def calibration_measures(
    student: Detector, batches: Sequence[Tensor], labels: Sequence[Detections]
) -> dict[str, Callable[[], float]]:
    """Measures of the network as it is at the moment of the call, against the full-precision one now.

    The squared gradient that `fisher` needs is left in each weight's `grad`.
    """
    sites = student.layers.distillation
    with torch.no_grad(), FeatureTap(student.network, sites) as tap:
        reference = [(student.head_outputs(images), tap.features()) for images in batches]
    grouped = [list(labels[start : start + BATCH]) for start in range(0, len(labels), BATCH)]

    def task_loss() -> float:
        losses = [
            student.task_loss(student.head_outputs(images), each) for images, each in zip(batches, grouped, strict=True)
        ]
        return float(torch.stack(losses).mean())

    accumulate_squared_gradients(student, batches, grouped)
    task_before, agreement_before = task_loss(), agreement(student, batches, labels)

    def divergence(box_weight: float) -> float:
        values = [
            output_divergence(student.head_outputs(images), theirs, 1.0, box_weight)
            for images, (theirs, _) in zip(batches, reference, strict=True)
        ]
        return float(torch.stack(values).mean())

    def features() -> float:
        with FeatureTap(student.network, sites) as tap:
            values = []
            for images, (_, theirs) in zip(batches, reference, strict=True):
                student.head_outputs(images)
                values.append(feature_error(tap.features(), theirs))
        return float(torch.stack(values).mean())

    return {
        **{f"output divergence, boxes x {weight:g}": partial(divergence, weight) for weight in BOX_WEIGHTS},
        "feature error": features,
        "task loss rise": lambda: task_loss() - task_before,
        "agreement lost": lambda: agreement_before - agreement(student, batches, labels),
    }


def accumulate_squared_gradients(
    student: Detector, batches: Sequence[Tensor], labels: Sequence[list[Detections]]
) -> None:
    """Mean over images of the squared gradient of the task loss, into each quantized weight's `grad`."""
    weights = [layer.weight for layer in quantized_layers(student.network).values()]
    squares = [torch.zeros_like(weight) for weight in weights]
    count = 0
    for weight in weights:
        weight.requires_grad_(True)
    for images, grouped in zip(batches, labels, strict=True):
        for image, label in zip(images, grouped, strict=True):
            loss = student.task_loss(student.head_outputs(image[None]), [label])
            for square, gradient in zip(squares, torch.autograd.grad(loss, weights), strict=True):
                square += gradient.square()
            count += 1
    for weight, square in zip(weights, squares, strict=True):
        weight.requires_grad_(False)
        weight.grad = square / count


def fisher(layer: QuantizedLayer, original: Tensor) -> float:
    """Second-order estimate of the loss: squared gradient x squared perturbation, summed."""
    assert layer.weight.grad is not None
    return float((layer.weight.grad * (layer.weight - original).square()).sum())


def mean_average_precision(detector: Detector, data: ValidationSet, size: int) -> float:
    """mAP50-95 on real images."""
    found = predict(
        detector, data.images, CPU, InferenceSettings(ImageSize.square(size), 16, Suppression(0.001, iou=0.7))
    )
    truth = [Detections.of(torch.from_numpy(image.boxes), torch.from_numpy(image.classes)) for image in data.images]
    crowd = [image.crowd.tolist() for image in data.images]
    return average_precision(truth, found.detections, detector.identity.class_names, crowd)[0].map50_95


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's ρ; no ties expected."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


if __name__ == "__main__":
    typer.run(main)
