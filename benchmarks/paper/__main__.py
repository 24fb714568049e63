"""The paper's table beside this project's, one row after another.

    python -m benchmarks.paper --estimate                         # hours of each row on this machine
    python -m benchmarks.paper                                    # all rows, or the rest of them
    python -m benchmarks.paper yolo11s:w4a8 --executor docker     # one row, in containers

Checkpoints and COCO val2017 are fetched and verified. Everything lies below --work: `table.md`, written anew after each
row, and a folder for each detector with the set that its rows share and a folder for each row. After a stop, the same
command goes on.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.paper.rows import BITS, Row, chosen_rows
from benchmarks.paper.runs import Size, row_folders, run_rows
from benchmarks.paper.sources import SOURCES, Sources, fetched_checkpoint, fetched_coco
from benchmarks.paper.table import COMPARABLE, write_table
from pipeline.conductor import EXECUTORS
from pipeline.executor_names import ExecutorName
from schemas.run_config import RunConfig
from schemas.teacher import EMBEDDED
from stages.options import Assignments
from stages.stage import Stage, run_stage

TABLE = "table.md"


def main(
    rows: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ROW]...", help=f"as yolo11s, yolo11s:w4a8 or best.pt:w4a8; bits: {', '.join(BITS)}"),
    ] = None,
    executor: Annotated[ExecutorName, typer.Option(help="what starts the stages")] = ExecutorName.LOCAL,
    work: Annotated[Path, typer.Option(help="folder of sets, students, evaluations and table")] = Path("runs/paper"),
    cache: Annotated[
        Path | None, typer.Option(help="folder of checkpoints and COCO; default: cache/ in the work folder")
    ] = None,
    sources: Annotated[Path, typer.Option(help="YAML file: what is fetched from where, sizes and digests")] = SOURCES,
    data: Annotated[
        Path | None, typer.Option(help="labelled images in place of COCO val2017, which is not fetched then")
    ] = None,
    images: Annotated[int, typer.Option(help="synthetic images of each detector")] = COMPARABLE[0],
    size: Annotated[int, typer.Option(help="side of all images, pixels")] = COMPARABLE[1],
    steps: Annotated[int, typer.Option(help="steps of each student's training")] = 512,
    assignments: Assignments = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="time a few steps, print hours of each row")] = False,
) -> None:
    """Make the rows of the paper's table, and the table."""
    with run_stage("paper") as stage:
        work, cache = work.absolute(), (cache or work / "cache").absolute()
        chosen, known = chosen_rows(rows or ()), Sources.read(sources)
        per_row = Size(images, size, steps, tuple(assignments or ()))
        for row in chosen:  # what is wrong with a setting is said before anything is fetched
            per_row.config(row, row.detector.checkpoint, data, work / row.detector.name)
        starter = None if estimate else EXECUTORS[executor]()
        checkpoints = {
            each.name: fetched_checkpoint(each, known, cache, stage)
            for each in dict.fromkeys(row.detector for row in chosen)
        }
        if data is None and not estimate and any(row.detector.checkpoint != EMBEDDED for row in chosen):
            data = fetched_coco(known.coco, cache, stage)
        configs = {
            row: per_row.config(row, checkpoints[row.detector.name], data, work / row.detector.name) for row in chosen
        }
        if starter is None:
            show_estimate(configs, stage)
            return
        folders = row_folders(work, chosen)
        write_table(work / TABLE, folders)
        code = run_rows(configs, executor, starter, stage, lambda: write_table(work / TABLE, folders))
        stage.reporter.message(f"table: {work / TABLE}")
        if code:
            sys.exit(code)


def show_estimate(configs: Mapping[Row, RunConfig], stage: Stage) -> None:
    """Time the work of each detector and print the hours of its rows."""
    from benchmarks.paper.estimate import EXTRAPOLATED, hours, measured  # loads torch and the jobs

    found = {}
    for row, config in configs.items():
        if row.detector not in found:
            stage.reporter.message(f"timing {row.detector.title}")
            found[row.detector] = measured(config, COMPARABLE[2], stage.stop_here_if_asked)
    columns = ("row", "set", "training and evaluation", "together")
    stage.reporter.table("Hours on this machine", columns, hours(configs, found))
    stage.reporter.message(EXTRAPOLATED)


if __name__ == "__main__":
    typer.run(main)
