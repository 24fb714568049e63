"""What answers and refusals cost before any work: `python -m benchmarks.startup --teacher yolo11n.pt`, as a table."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from stages.threads import usable_cores

TIMES = 3
"""Each command is run so often; the quickest counts, since other work only slows it."""
REPORT_IMPORTS = """
import atexit, os, sys
def said():
    names = [name for name in ("torch", "torchvision", "ultralytics", "onnx") if name in sys.modules]
    with open(os.environ["ZSQ_BENCHMARK_IMPORTS"], "a") as log:
        log.write(" ".join(names) + "\\n")
atexit.register(said)
"""


def measured(arguments: list[str], folder: Path) -> tuple[float, float, str]:
    """Wall and processor seconds of `zsq …` with the processes it starts, and what these imported."""
    log = folder / "imports"
    log.unlink(missing_ok=True)
    variables = {"PYTHONPATH": str(folder), "ZSQ_BENCHMARK_IMPORTS": str(log)}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        env=os.environ | variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, _, usage = os.wait4(process.pid, 0)
    imported = sorted(set(log.read_text().split())) if log.exists() else []
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, ", ".join(imported) or "none"


def commands(teacher: Path, folder: Path, finished: Path | None) -> dict[str, list[str]]:
    """What is measured, by what it is."""
    classification = folder / "yolo11n-cls.pt"
    classification.write_bytes(b"\x80\x02cultralytics.nn.tasks\nClassificationModel\n.")  # named, which is enough
    out = ["--output", str(folder / "out")]
    found = {
        "`zsq --version`": ["--version"],
        "`zsq --help`": ["--help"],
        "`zsq run --help`": ["run", "--help"],
        "refused: typo in a setting": ["run", str(teacher), "--set", "synth.imagess=3", *out],
        "refused: unknown target": ["run", str(teacher), "--target", "nothing", *out],
        "refused: labels that are not there": ["run", str(teacher), "--data", str(folder / "nowhere"), *out],
        "refused: classification checkpoint": ["run", str(classification), *out],
        "refused: labels of other classes": ["run", str(teacher), "--data", "embedded", *out],
        "refused: size beside the stride": ["run", str(teacher), "--size", "100", *out],
    }
    if finished is not None:
        found["up to date: `zsq run`"] = ["run", "--output", str(finished)]
    return found


def main(
    teacher: Annotated[Path, typer.Option(help="checkpoint of a detector of COCO's classes")],
    finished: Annotated[Path | None, typer.Option(help="folder of a finished run of the embedded detector")] = None,
) -> None:
    """Print the table of docs/performance.md."""
    print(f"{usable_cores()} cores, load {os.getloadavg()[0]:.1f}")
    print("| command | wall, s | processor, s | imported |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sitecustomize.py").write_text(REPORT_IMPORTS)
        for what, arguments in commands(teacher, folder, finished).items():
            runs = [measured(arguments, folder) for _ in range(TIMES)]
            wall, processor = min(run[0] for run in runs), min(run[1] for run in runs)
            print(f"| {what} | {wall:.1f} | {processor:.1f} | {runs[0][2]} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
