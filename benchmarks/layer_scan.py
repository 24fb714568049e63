"""How well the estimated sensitivity of layers ranks them: against every layer rounded by itself and measured.

    uv run python -m benchmarks.layer_scan --teacher yolo11n.pt --calibration-set set --images 8 --widths 2,4,6

The estimate takes a few backward passes an image, the scan a forward pass for each image, layer and width.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from detectors.protocol import Detector
from detectors.registry import load_teacher
from qat_job.distillation import output_divergence
from qat_job.images import ImageBatches
from qat_job.sensitivity.curvature import BOX_WEIGHT, layer_errors, rounding_error
from quantization.convert import in_float, make_student, quantized_layers
from quantization.layers import QuantizedLayer
from schemas.qat_config import BitPolicy
from schemas.teacher import TeacherSource
from stages.progress import Reporter
from stages.shards import open_calibration_set

CPU = torch.device("cpu")
SMALLEST = 1e-9
"""Keeps logarithms finite where rounding changed nothing."""


def main(
    teacher: Annotated[str, typer.Option(help="checkpoint of the teacher")],
    calibration_set: Annotated[Path, typer.Option(help="folder of the calibration set")],
    images: Annotated[int, typer.Option(help="calibration images")] = 8,
    widths: Annotated[str, typer.Option(help="weight bits, comma-separated")] = "2,4,6",
) -> None:
    """Print a line for each width, and what both took."""
    student = make_student(load_teacher(TeacherSource(path=teacher), CPU), BitPolicy())
    seen = list(ImageBatches(open_calibration_set(calibration_set), CPU).in_order(images, 1))
    bits = [int(text) for text in widths.split(",")]
    start = time.perf_counter()
    estimated = layer_errors(student, seen, bits, lambda: None)
    between = time.perf_counter()
    scanned = scan(student, seen, bits)
    end = time.perf_counter()
    print("| bits | rank correlation | correlation of logarithms | median ratio |\n| --- | --- | --- | --- |")
    for width in bits:
        pairs = [
            (next(each.error for each in estimated[name] if each.weight_bits == width), scanned[name][width])
            for name in scanned
        ]
        mine, theirs = np.maximum(np.array(pairs).T, SMALLEST)
        ranks = [np.argsort(np.argsort(values)) for values in (mine, theirs)]
        logarithms = np.corrcoef(np.log(mine), np.log(theirs))[0, 1]
        print(f"| {width} | {np.corrcoef(*ranks)[0, 1]:.2f} | {logarithms:.2f} | {np.median(mine / theirs):.2f} |")
    print(f"estimate {between - start:.0f} s, scan {end - between:.0f} s: {len(scanned)} layers, {len(seen)} images")


@torch.no_grad()
def scan(student: Detector, images: Sequence[Tensor], widths: Sequence[int]) -> dict[str, dict[int, float]]:
    """The divergence that each layer causes at each width when it alone is rounded; a mean over images."""
    layers = quantized_layers(student.network)
    errors: dict[str, dict[int, float]] = {}
    with in_float(student.network):
        expected = [student.head_outputs(image) for image in images]
        for name in Reporter("layer scan").track(list(layers), "layers", "layer"):
            errors[name] = {}
            for bits in widths:
                with quantized_weight(layers[name], bits):
                    found = [
                        output_divergence(student.head_outputs(image, like=theirs), theirs, 1.0, BOX_WEIGHT)
                        for image, theirs in zip(images, expected, strict=True)
                    ]
                errors[name][bits] = float(torch.stack(found).mean())
    return errors


@contextmanager
def quantized_weight(layer: QuantizedLayer, bits: int) -> Iterator[None]:
    """The layer computes in float, but with its weight rounded to `bits`, inside the block."""
    original = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += rounding_error(layer, bits)
    try:
        yield
    finally:
        with torch.no_grad():
            layer.weight.copy_(original)


if __name__ == "__main__":
    typer.run(main)
