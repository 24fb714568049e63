"""Every family through ONNX Runtime's placement: what runs in integers, and how fast, with random weights.

    uv run python -m benchmarks.engine_families --size 320 --only YOLOv8n

A table row each: layers in integers, layers in float with their reasons, time of FP32 and of W8A8 with one thread, in
turns, and how far the outputs are from those of the traced student.
"""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import torch
import typer
from torch.nn import functional as F

from eval_job.latency import measure_latencies
from quantization.engines.onnxruntime import ENGINE
from quantization.onnx.engine import open_engine
from quantization.onnx.export import export_full_precision, trace_student
from schemas.image_size import ImageSize
from tests.conformance.cases import CASES, Case
from tests.conformance.checks import Subject

INTEGER_LAYERS = ("QLinearConv", "QLinearMatMul", "QGemm")


def row(case: Case, size: int, folder: Path) -> str:
    subject = Subject(case, folder)
    teacher = subject.teacher
    if teacher.export_obstacle is not None:
        return f"| {case.name} | no: {teacher.export_obstacle} | | | |"
    size = max(size, 4 * teacher.identity.stride)
    images = F.interpolate(subject.images, (size, size), mode="bilinear")
    student, manifest = subject.saved(subject.student(8), 8)
    traced = trace_student(student, manifest)
    generic, placed = folder / "generic.onnx", folder / "placed.onnx"
    onnx.save(traced.model, generic)
    onnx.save(ENGINE.place(traced.model, images.numpy()), placed)
    export_full_precision(teacher, ImageSize.square(size), folder / "single.onnx", folder / "half.onnx")
    census = ENGINE.census(placed)
    integer = sum(census.integer.get(kind, 0) for kind in INTEGER_LAYERS)
    reasons = Counter(layer.reason for layer in census.float_layers)
    timed = measure_latencies(
        {"single": folder / "single.onnx", "placed": placed},
        ImageSize.square(size),
        engine="onnxruntime",
        threads=[1],
        repetitions=15,
    )
    single, ours = (timed[name][0].median_ms for name in ("single", "placed"))
    outputs = [open_engine(path)(images.numpy()) for path in (generic, placed)]
    error = f"{np.abs(outputs[1] - outputs[0])[:, 4:].mean():.0e}" if outputs[0].shape == outputs[1].shape else "?"
    return (
        f"| {case.name} | {integer} | {'; '.join(f'{count} {reason}' for reason, count in reasons.items())} "
        f"| {single:.1f}, {ours:.1f} ({single / ours:.2f}) | {error} |"
    )


def main(
    size: Annotated[int, typer.Option(help="pixels")] = 320,
    only: Annotated[str, typer.Option(help="part of a name")] = "",
) -> None:
    torch.manual_seed(0)
    print("| detector | layers in integers | in float | FP32, W8A8, ms (speed-up) | mean difference of scores |")
    print("| --- | --- | --- | --- | --- |")
    for case in CASES:
        if only in case.name:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    print(row(case, size, Path(folder)), flush=True)
                except Exception as error:  # a row for every family, whatever happens to one
                    print(
                        f"| {case.name} | FAILED: {type(error).__name__}: {' '.join(str(error).split())[:200]} | | | |"
                    )


if __name__ == "__main__":
    typer.run(main)
