"""Write docs/families.md: every detector of `tests/conformance/cases.py` through every check, each cell from a run.

    uv run python -m benchmarks.families              # all of them: a quarter of an hour on two cores
    uv run python -m benchmarks.families --only v10   # rows whose name has this in it

With `--column ONNX` that column alone is run. Rows and cells that are not run stay as they are.
"""

import platform
import tempfile
import time
from pathlib import Path
from typing import Annotated

import onnxruntime
import torch
import torchvision
import transformers
import typer
import ultralytics

from stages.storage import write_text
from tests.conformance.cases import CASES, Case
from tests.conformance.checks import CHECKS, Subject, outcome
from tests.conformance.table import DOCUMENT, END, FAILED, HEADER, rows


def main(
    only: Annotated[str, typer.Option(help="rows whose name has this in it; all")] = "",
    column: Annotated[str, typer.Option(help="the only column to run; all")] = "",
) -> None:
    """Run the checks, writing the table after each detector; exit 1 where one fails."""
    checks = [check for check in CHECKS if not column or check == column]
    failed = False
    for case in CASES:
        if only.lower() in case.name.lower():
            cells = run(case, checks)
            failed |= FAILED in cells.values()
            write_row(case, cells)
    if failed:
        raise typer.Exit(1)


def write_row(case: Case, cells: dict[str, str]) -> None:
    """Write the table with these cells, its other rows as they are by now; a row that is not whole yet is left out."""
    before = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else ""
    kept = {row[0]: dict(zip(HEADER, row, strict=True)) for row in rows(before)[1:]}
    kept[case.name] = kept.get(case.name, {}) | cells
    body = []
    for each in CASES:
        known = kept.get(each.name, {})
        if known.keys() >= CHECKS.keys():
            body.append([each.name, f"`{each.family}`", *(known[check] for check in CHECKS)])
    write_text(DOCUMENT, document(body) + before.partition(END)[2].lstrip("\n"))


def run(case: Case, checks: list[str]) -> dict[str, str]:
    """The cells of a case, by check."""
    cells = {}
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(case, Path(folder))
        for check in checks:
            start = time.monotonic()
            try:
                cells[check] = outcome(subject, check)
            except Exception as error:
                cells[check] = FAILED
                print(f"{case.name}, {check}: {type(error).__name__}: {' '.join(str(error).split())[:500]}")
            print(f"{case.name}, {check}: {cells[check]} ({time.monotonic() - start:.1f} s)", flush=True)
    return cells


def document(body: list[list[str]]) -> str:
    """The generated part of docs/families.md."""
    lines = [HEADER, ["---"] * len(HEADER), *body]
    table = "\n".join("| " + " | ".join(row) + " |" for row in lines)
    sizes = " or ".join(str(size) for size in sorted({case.size for case in CASES}))
    versions = ", ".join(
        f"{module.__name__} {module.__version__}"
        for module in (torch, torchvision, ultralytics, transformers, onnxruntime)
    )
    return f"""# Detector families

Made by `python -m benchmarks.families`, {versions}, Python {platform.python_version()}, {platform.machine()} CPU.
Every cell is what a check of `tests/conformance/checks.py` said when it ran; `pytest -m slow tests/conformance` runs
the same.

Networks have random weights and see images of {sizes} px, so the numbers say that the code works, not what
a trained detector reaches. **Load**: the adapter reads a checkpoint as the family's tools write it, and its outputs
equal those of the network that was saved. **Label sampling**: adaptive, by `synth`. **Inversion**: change of the
detection loss in 20 steps. **PTQ**: error of class logits, against the difference between two images. **QAT**: change
of the loss in 8 steps of `qat`. **Save and reload**: a 4-bit student's outputs. **ONNX**: mean difference of scores
between the exported and the simulated student, or why there is no export.

{table}

{END}

"""


if __name__ == "__main__":
    typer.run(main)
