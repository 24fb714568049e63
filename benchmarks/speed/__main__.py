"""Every step of the pipeline against its floor: what the networks in it cost alone, in plain PyTorch.

Steps are timed where the product runs them: inside `Inversion.run`, `train` and `predict`, at the moments they report.
Floors take turns with them in one process, so that whatever else the machine does falls on all alike; medians over all
rounds. Peak memory is that of a process of its own for each step.

    uv run python -m benchmarks.speed --teacher yolo11n.pt --machine cpu-2

writes `benchmarks/results/<machine>.json` and the table between the markers of `docs/performance.md`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer

from benchmarks.speed.steps import Spent, Work, evaluation, inversion, now, sampling, training
from detectors.registry import load_teacher
from schemas.teacher import TeacherSource

WARM_UP = 1
"""Untimed steps at the start of each turn."""
MARKERS = ("<!-- speed: begin -->", "<!-- speed: end -->")
PAGE = Path("docs/performance.md")
REFERENCE: dict[str, tuple[float, float, float]] = {
    "label sampling": (1.84, 1.25, 1.23),
    "inversion": (1.76, 1.15, 1.76),
    "qat": (1.65, 1.30, 2.77),
}
"""Of each step: how many floors the paper's public code takes, the bar here, and the bar of peak memory in GB."""


def main(
    teacher: Annotated[str, typer.Option(help="checkpoint of the teacher")],
    machine: Annotated[str, typer.Option(help="name of the results file")] = "cpu",
    rounds: Annotated[int, typer.Option(help="turns of each step and floor")] = 7,
    steps: Annotated[int, typer.Option(help="timed steps in each turn")] = 4,
    threads: Annotated[int, typer.Option(help="threads of PyTorch")] = 2,
    only: Annotated[
        str | None, typer.Option(help="measure one step alone, by name; the results of others stay")
    ] = None,
    device: Annotated[str, typer.Option(help="torch device")] = "cpu",
    memory_of: Annotated[str | None, typer.Option(help="internal: run this step alone, print peak memory")] = None,
) -> None:
    """Measure, write the results and the table."""
    torch.set_num_threads(threads)
    with TemporaryDirectory() as folder:
        detector = load_teacher(TeacherSource(path=teacher), torch.device(device))
        makers = {
            "label sampling": lambda: sampling(detector, 160, 16),
            "inversion": lambda: inversion(detector, 320, 8, views=False),
            "inversion, default views": lambda: inversion(detector, 320, 8, views=True),
            "inversion, 640 px": lambda: inversion(detector, 640, 4, views=False),
            "qat": lambda: training(detector, 320, 8, Path(folder)),
            "evaluation": lambda: evaluation(detector, 320, 8),
        }
        if memory_of is not None:
            makers[memory_of]().step(3)
            # ru_maxrss would not do: it starts at what the parent had when it made this process.
            status = Path("/proc/self/status").read_text(encoding="ascii")
            print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
            return
        rows = []
        for name, make in makers.items():
            if only in (None, name):
                rows.append({"step": name} | measured(make(), rounds, steps, device))
                rows[-1]["peak_gb"] = peak_memory(teacher, name, threads, device) if device == "cpu" else gpu_memory()
                print(json.dumps(rows[-1]), flush=True)
    write_results(rows, list(makers), machine, threads, device)


def measured(work: Work, rounds: int, steps: int, device: str) -> dict[str, Any]:
    """Medians in seconds, and the ratio of each floor."""
    times: list[Spent] = []
    floors: dict[str, list[Spent]] = {name: [] for name in work.floors}
    for _ in range(rounds):
        for name, floor in work.floors.items():
            for repetition in range(WARM_UP + steps):
                start = now(device)
                floor()
                if repetition >= WARM_UP:
                    floors[name].append(now(device) - start)
        times += work.step(WARM_UP + steps)[WARM_UP:]
    medians = {name: Spent.median(values) for name, values in floors.items()}
    step = Spent.median(times)
    return {
        "shape": work.shape,
        "seconds": round(step.wall, 4),
        "floors": {name: round(value.wall, 4) for name, value in medians.items()},
        "ratios": {name: round(step.wall / value.wall, 3) for name, value in medians.items()},
        "cpu_ratios": {name: round(step.cpu / value.cpu, 3) for name, value in medians.items()},
        "repetitions": len(times),
        "load": round(os.getloadavg()[0], 1),
    }


def peak_memory(teacher: str, name: str, threads: int, device: str) -> float:
    """Resident GB of a process that does this step alone, libraries and weights included."""
    command = [sys.executable, "-m", "benchmarks.speed", "--teacher", teacher, "--memory-of", name]
    command += ["--threads", str(threads), "--device", device]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return round(int(done.stdout.split()[-1]) * 1024 / 1e9, 2)


def gpu_memory() -> float:
    """Peak GB that tensors took on the GPU since the last call."""
    peak = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 2)


def write_results(rows: list[dict[str, Any]], order: list[str], machine: str, threads: int, device: str) -> None:
    """The JSON file, and the table in the documentation; steps that were not measured now keep their rows."""
    path = Path("benchmarks/results") / f"{machine}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(path.read_text(encoding="utf-8"))["steps"] if path.exists() else []
    found = {row["step"]: row for row in [*earlier, *rows]}
    rows = [found[name] for name in order if name in found]
    facts = {"torch": torch.__version__, "threads": threads, "cores": os.cpu_count(), "device": device}
    path.write_text(json.dumps(facts | {"steps": rows}, indent=1) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(MARKERS[0])
    after = rest.split(MARKERS[1])[1]
    PAGE.write_text(f"{before}{MARKERS[0]}\n{table(rows)}\n{MARKERS[1]}{after}", encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    lines = [
        "| step | shape | floor, s | step, s | ratio | channels last | CPU time | reference | bar | GB | bar, GB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        reference, bar, memory = (f"{value:.2f}" for value in REFERENCE.get(row["step"], ()) or (0, 0, 0))
        if row["step"] not in REFERENCE:
            reference = bar = memory = ""
        other = row["ratios"].get("channels last")
        lines.append(
            f"| {row['step']} | {row['shape']} | {row['floors']['as loaded']:.3f} | {row['seconds']:.3f} "
            f"| **{row['ratios']['as loaded']:.2f}** | {'' if other is None else f'{other:.2f}'} "
            f"| {row['cpu_ratios']['as loaded']:.2f} "
            f"| {reference} | {bar} | {row['peak_gb']:.2f} | {memory} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
