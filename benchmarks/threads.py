"""How long a small `synth` takes, alone and two at once, by how its threads wait for each other.

    uv run python -m benchmarks.threads --waiting default,1000,3000,passive

`default` is GNU OpenMP's own 300,000 rounds of spinning, a number is GOMP_SPINCOUNT, `passive` is OMP_WAIT_POLICY. Run
it on an otherwise idle machine, or with all else paused; figures of separate runs do not compare.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from stages.threads import WAITING

SMALL = ("images=8", "labels.iterations=40", "labels.warm_up=20", "labels.interval=20", "inversion.iterations=40")
OPENMP_DEFAULT = "300000"


def environment(waiting: str) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if name not in WAITING}
    if waiting == "passive":
        return others | {"OMP_WAIT_POLICY": "passive"}
    return others | {"GOMP_SPINCOUNT": OPENMP_DEFAULT if waiting == "default" else waiting}


def seconds(waiting: str, jobs: int, teacher: str, image_size: int) -> float:
    """Seconds until all of `jobs` equal jobs, started together, have ended."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = [*SMALL, f"teacher.path={teacher}", f"image_size={image_size}"]
        assignments = [part for setting in settings for part in ("--set", setting)]
        start = time.perf_counter()
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "synth_job", "--output", str(Path(scratch) / str(number)), *assignments],
                env=environment(waiting), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for number in range(jobs)
        ]  # fmt: skip
        if any([job.wait() for job in running]):
            sys.exit("a job failed: run `python -m synth_job` with these settings to see why")
        return time.perf_counter() - start


def main(
    waiting: Annotated[str, typer.Option(help="ways to wait, comma-separated")] = "default,1000,3000,passive",
    teacher: Annotated[str, typer.Option(help="checkpoint")] = "embedded",
    image_size: Annotated[int, typer.Option(help="pixels")] = 160,
    repetitions: Annotated[int, typer.Option(help="runs of each")] = 2,
) -> None:
    print("| waiting | alone, s | two at once, s |\n| --- | --- | --- |")
    for way in waiting.split(","):
        alone, both = (
            [f"{seconds(way, jobs, teacher, image_size):.1f}" for _ in range(repetitions)] for jobs in (1, 2)
        )
        print(f"| {way} | {', '.join(alone)} | {', '.join(both)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
