"""What each part of the placement for ONNX Runtime is worth in time: the parts added one after another.

    uv run python -m benchmarks.placement_parts --fp32 eval/teacher-fp32.onnx --student student --set set

The student's folder holds the file for the target `generic`, which the placement starts from. Models take turns.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer

from eval_job.latency import measure_latencies
from quantization.engines.onnxruntime import REWRITES
from quantization.engines.whole_graph import place_everywhere
from schemas.image_size import ImageSize
from schemas.target import Target, exported_path
from stages.shards import open_calibration_set


def main(
    fp32: Annotated[Path, typer.Option(help="the full-precision detector, as eval exports it")],
    student: Annotated[Path, typer.Option(help="folder with a student exported for the target generic")],
    calibration_set: Annotated[Path, typer.Option("--set", help="that it was made with")],
    images: Annotated[int, typer.Option(help="that decide the grids")] = 4,
    size: Annotated[int, typer.Option(help="pixels")] = 640,
    repetitions: Annotated[int, typer.Option(help="timed runs of each")] = 25,
) -> None:
    samples = open_calibration_set(calibration_set).samples[:images]
    pixels = np.stack([np.asarray(sample.image()) for sample in samples]).transpose(0, 3, 1, 2).astype(np.float32) / 255
    generic = exported_path(student, Target.GENERIC)
    model = place_everywhere(onnx.load(generic), pixels)
    with tempfile.TemporaryDirectory() as folder:
        files = {"full precision": fp32, "generic": generic}
        files["quantizers through the whole graph"] = Path(folder) / "whole_graph.onnx"
        onnx.save(model, files["quantizers through the whole graph"])
        for rewrite in REWRITES:
            model = rewrite(model)
            files[f"and {rewrite.__name__}"] = Path(folder) / f"{rewrite.__name__}.onnx"
            onnx.save(model, files[f"and {rewrite.__name__}"])
        timed = measure_latencies(
            files, ImageSize.square(size), engine="onnxruntime", threads=[1, 2], repetitions=repetitions
        )
    full = timed["full precision"]
    print("| | 1 thread, ms (against FP32) | 2 threads |\n| --- | --- | --- |")
    for name, row in timed.items():
        pairs = [(each.median_ms, one.median_ms) for each, one in zip(row, full, strict=True)]
        cells = [f"{ours:.1f} ({theirs / ours:.2f})" for ours, theirs in pairs]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    typer.run(main)
