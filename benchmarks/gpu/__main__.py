"""Synthesis and training on one GPU: precisions, compilation, CUDA graphs, memory, share of the floor, verified sets.

    python -m benchmarks.gpu OUTPUT --teacher yolo11n.pt

writes `OUTPUT/gpu.json` and `OUTPUT/gpu.md`, anew after each variant, the most important ones first. It needs no
network. What does not fit into the time is named, and so is what does not work on this device.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer

from benchmarks.gpu.arithmetic import Arithmetic
from benchmarks.gpu.budget import Budget, Outcome
from benchmarks.gpu.page import write
from benchmarks.gpu.roofline import Peaks, measure_peaks
from benchmarks.gpu.shards import both_verify
from benchmarks.gpu.variants import Bench, Mode, synthesis, training
from detectors.registry import load_teacher, resolve_device
from schemas.synth_config import ViewConfig
from schemas.teacher import EMBEDDED, TeacherSource

SIDE = {"cuda": 8192, "cpu": 256}
"""Of the matrices whose product tells a device's peak, by its type."""
COPIED = {"cuda": 2**30, "cpu": 2**24}
"""Bytes that are copied for the same."""

Work = Callable[[], dict[str, Any]]


def main(
    output: Annotated[Path, typer.Argument(help="folder of the results")],
    teacher: Annotated[str, typer.Option(help="checkpoint, or `embedded`")] = EMBEDDED,
    device: Annotated[str, typer.Option(help="torch device")] = "cuda",
    size: Annotated[int, typer.Option(help="image side, pixels")] = 640,
    batch: Annotated[int, typer.Option(help="images of a step; the product's default is 8")] = 8,
    steps: Annotated[int, typer.Option(help="steps that are timed together")] = 20,
    rounds: Annotated[int, typer.Option(help="of such steps; the median counts")] = 3,
    minutes: Annotated[float, typer.Option(help="for everything but the start of this program")] = 7.0,
    each: Annotated[float, typer.Option(help="minutes for one variant at most")] = 1.5,
    backend: Annotated[str, typer.Option(help="of torch.compile; `eager` compiles no kernel")] = "inductor",
    only: Annotated[str, typer.Option(help="regular expression: the variants that are measured, by name")] = "",
) -> None:
    """Measure within the budget, write the results, print the page."""
    torch._logging.set_logs(dynamo=logging.ERROR)  # where a graph breaks it is in two, which the time shows
    start, budget = time.monotonic(), Budget(minutes * 60, each * 60)
    place, source = resolve_device(device), TeacherSource(path=teacher)
    detector = load_teacher(source, place)
    peaks = measure_peaks(place, SIDE[place.type], COPIED[place.type])
    facts = facts_of(place, peaks) | {"teacher": Path(teacher).name, "size": size, "batch": batch, "backend": backend}
    outcomes: list[Outcome] = []
    with TemporaryDirectory() as folder:
        bench = Bench(detector, place, size, batch, steps, rounds, backend, peaks, Path(folder))
        chosen = [(name, work) for name, work in variants(bench, source) if re.search(only, name)]
        for name, work in chosen:
            outcomes.append(budget.run(name, work))
            facts["seconds"] = round(time.monotonic() - start, 1)
            text = write(output, facts, outcomes)
            print(f"{outcomes[-1].seconds:6.1f} s  {name}: {outcomes[-1].reason or 'measured'}", flush=True)
    print(f"\n{text}")


def variants(bench: Bench, source: TeacherSource) -> Iterator[tuple[str, Work]]:
    """All of them by name, the most important first."""
    fp32, tf32, bf16 = Arithmetic
    for arithmetic in Arithmetic:
        yield f"synthesis, {arithmetic}, eager", partial(synthesis, bench, arithmetic, Mode.EAGER)
    yield "sets of both devices verify", partial(both_verify, source, bench.device, bench.size, bench.folder)
    for arithmetic in (fp32, tf32):
        yield f"qat, {arithmetic}, eager", partial(training, bench, arithmetic, Mode.EAGER)
    for arithmetic, mode in ((bf16, Mode.GRAPHS), (bf16, Mode.COMPILED), (bf16, Mode.BOTH), (tf32, Mode.GRAPHS)):
        yield f"synthesis, {arithmetic}, {mode}", partial(synthesis, bench, arithmetic, mode)
    views = ViewConfig().scales
    yield "synthesis, bf16, eager, default views", partial(synthesis, bench, bf16, Mode.EAGER, views)
    for arithmetic, mode in ((bf16, Mode.EAGER), (tf32, Mode.COMPILED)):
        yield f"qat, {arithmetic}, {mode}", partial(training, bench, arithmetic, mode)
    large = replace(bench, batch=4 * bench.batch)
    yield f"synthesis, bf16, eager, batch {large.batch}", partial(synthesis, large, bf16, Mode.EAGER)
    for arithmetic, mode in (
        (tf32, Mode.COMPILED), (fp32, Mode.COMPILED), (fp32, Mode.GRAPHS), (tf32, Mode.BOTH), (fp32, Mode.BOTH),
    ):  # fmt: skip
        yield f"synthesis, {arithmetic}, {mode}", partial(synthesis, bench, arithmetic, mode)


def facts_of(device: torch.device, peaks: Peaks) -> dict[str, Any]:
    """The machine, and what it was seen to reach."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    facts = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda}
    reached = {
        f"{kind} tera-operations a second": float(f"{rate / 1e12:.3g}") for kind, rate in peaks.operations.items()
    }
    return facts | reached | {"gigabytes a second": round(peaks.bytes / 1e9, 1)}


if __name__ == "__main__":
    typer.run(main)
