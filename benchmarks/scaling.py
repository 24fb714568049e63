"""Time and peak memory of synth by the number of images: the first should be linear, the second flat.

Each size is a `synth_job` process as a user would start it, at few iterations; the time without images is that of
starting, of loading the teacher and of the end of a set.

    uv run python -m benchmarks.scaling --teacher yolo11n.pt
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

SETTINGS = ("labels.iterations=8", "labels.warm_up=4", "labels.interval=4", "inversion.iterations=8")


def main(
    teacher: Annotated[str, typer.Option(help="checkpoint of the teacher")],
    size: Annotated[int, typer.Option(help="image side, pixels")] = 320,
    images: Annotated[str, typer.Option(help="numbers of images, comma-separated")] = "16,32,64",
    threads: Annotated[int, typer.Option(help="threads of PyTorch")] = 2,
) -> None:
    """Print the table."""
    print("| images | seconds | CPU seconds | CPU seconds per further image | peak memory, GB |")
    print("| --- | --- | --- | --- | --- |")
    before: tuple[int, float] | None = None
    for count in map(int, images.split(",")):
        seconds, cpu, peak = run(teacher, size, count, threads)
        further = "" if before is None else f"{(cpu - before[1]) / (count - before[0]):.2f}"
        print(f"| {count} | {seconds:.1f} | {cpu:.1f} | {further} | {peak:.2f} |", flush=True)
        before = (count, cpu)


def run(teacher: str, size: int, images: int, threads: int) -> tuple[float, float, float]:
    """Seconds by the clock and on a core, and resident GB, of one set."""
    with TemporaryDirectory() as folder:
        settings = (f"teacher.path={teacher}", f"image_size={size}", f"images={images}", *SETTINGS)
        command = [sys.executable, "-m", "synth_job", "--output", str(Path(folder) / "set")]
        command += [part for setting in settings for part in ("--set", setting)]
        start = time.monotonic()
        process = subprocess.Popen(
            command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise typer.Exit(1)
        return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    typer.run(main)
