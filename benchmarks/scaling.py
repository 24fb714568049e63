"""Time and peak memory of synth by the number of images, by their size and by the size of the network.

By the number of images the first should be linear and the second flat. Each row is a `synth_job` process as a user
would start it, at few iterations. Networks are YOLO11 n, s, m with random
weights, whose costs are those of trained ones.

    uv run python -m benchmarks.scaling --teacher yolo11n.pt --by images
    uv run python -m benchmarks.scaling --teacher yolo11n.pt --by size
    uv run python -m benchmarks.scaling --by network
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

SETTINGS = ("labels.iterations=8", "labels.warm_up=4", "labels.interval=4", "inversion.iterations=8")
SIZE, IMAGES, BATCH = 320, 8, 4
"""Of rows that vary something else; images of a batch where the sizes vary, which the largest have to fit in."""


class By(StrEnum):
    """What varies from row to row."""

    IMAGES = "images"
    SIZE = "size"
    NETWORK = "network"


def main(
    by: Annotated[By, typer.Option(help="what varies")] = By.IMAGES,
    teacher: Annotated[str, typer.Option(help="checkpoint of the teacher, but for networks")] = "",
    images: Annotated[str, typer.Option(help="numbers of images, comma-separated")] = "16,32,64",
    sizes: Annotated[str, typer.Option(help="image sides, pixels, comma-separated")] = "160,320,640,1280",
    networks: Annotated[str, typer.Option(help="scales of YOLO11, comma-separated")] = "n,s,m",
    threads: Annotated[int, typer.Option(help="threads of PyTorch")] = 2,
) -> None:
    """Print a table."""
    print(f"| {by.value} | seconds | CPU seconds | CPU seconds an image | peak memory, GB |")
    print("| --- | --- | --- | --- | --- |")
    with TemporaryDirectory() as folder:
        loaded = teacher or str(random_network("n", Path(folder))[0])
        start = run(["images=1", f"image_size={SIZE}", f"teacher.path={loaded}"], threads)[1]
        for name, count, settings in rows(by, teacher, Path(folder), (images, sizes, networks)):
            seconds, cpu, peak = run([f"images={count}", *settings], threads)
            cells = (name, f"{seconds:.1f}", f"{cpu:.1f}", f"{(cpu - start) / (count - 1):.2f}", f"{peak:.2f}")
            print(f"| {' | '.join(cells)} |", flush=True)


def rows(by: By, teacher: str, folder: Path, given: tuple[str, str, str]) -> Iterator[tuple[str, int, list[str]]]:
    """Name, number of images and settings of each row."""
    images, sizes, networks = (each.split(",") for each in given)
    match by:
        case By.IMAGES:
            for count in images:
                yield count, int(count), [f"image_size={SIZE}", f"teacher.path={teacher}"]
        case By.SIZE:
            for side in sizes:
                yield (
                    f"{side} px",
                    IMAGES,
                    [f"image_size={side}", f"teacher.path={teacher}", f"inversion.batch={BATCH}"],
                )
        case By.NETWORK:
            for scale in networks:
                path, millions = random_network(scale, folder)
                yield f"YOLO11{scale}, {millions:.1f} M", IMAGES, [f"image_size={SIZE}", f"teacher.path={path}"]


def random_network(scale: str, folder: Path) -> tuple[Path, float]:
    """A checkpoint of the library's with random weights, and its parameters in millions."""
    import torch
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    network = DetectionModel(f"yolo11{scale}.yaml", nc=80, verbose=False)
    path = folder / f"yolo11{scale}.pt"
    torch.save({"model": network, "train_args": {"imgsz": SIZE}}, path)
    return path, sum(parameter.numel() for parameter in network.parameters()) / 1e6


def run(settings: list[str], threads: int) -> tuple[float, float, float]:
    """Seconds by the clock and on a core, and resident GB, of one set."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "synth_job", "--output", str(Path(folder) / "set")]
        command += [part for setting in (*settings, *SETTINGS) for part in ("--set", setting)]
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
