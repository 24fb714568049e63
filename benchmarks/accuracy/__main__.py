"""`python -m benchmarks.accuracy run NAME` and `python -m benchmarks.accuracy page`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.accuracy.grid import Grid
from benchmarks.accuracy.page import write_page
from benchmarks.accuracy.runner import run_grid
from schemas.errors import ZsqError

EXPERIMENTS = Path(__file__).parent / "experiments"
RESULTS = Path(__file__).parent.parent / "results" / "accuracy"
PAGE = Path(__file__).parent.parent.parent / "docs" / "research" / "accuracy.md"

app = typer.Typer(add_completion=False, help="Experiments on what moves a student's accuracy.")


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="of a grid in experiments/, without .yaml")],
    work: Annotated[Path, typer.Option(help="folder of sets, students and evaluations")] = Path("runs/accuracy"),
    only: Annotated[str | None, typer.Option(help="run cells alone whose name contains this")] = None,
) -> None:
    """Run an experiment, or the rest of it. Paths in a grid are relative to the folder the command is given in."""
    try:
        run_grid(Grid.read(EXPERIMENTS / f"{name}.yaml"), RESULTS / f"{name}.jsonl", work, only)
    except ZsqError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from error


@app.command()
def page() -> None:
    """Write docs/research/accuracy.md and its plots from all results."""
    write_page(EXPERIMENTS, RESULTS, PAGE)
    typer.echo(os.path.relpath(PAGE))


if __name__ == "__main__":
    app()
