"""Command line of stage 3: `python -m eval_job`. What the container runs."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from eval_job.report.page import rebuild_page, write_page
from eval_job.resolution import Given, resolve
from eval_job.verdict import check_met, judge
from schemas.eval_config import EvalConfig
from schemas.evaluation import PAGE, REPORT, EvalReport
from schemas.requirements import Requirements
from stages.options import Assignments, ConfigFile, GivenSet, Overwrite, RunConfigFile, read_stage_config
from stages.output import Job, Output
from stages.ranks import Rank
from stages.shards import open_calibration_set
from stages.stage import run_stage

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="folder of the report and the detections")],
    config: ConfigFile = None,
    run_config: RunConfigFile = None,
    assignments: Assignments = None,
    student: Annotated[
        list[Path] | None, typer.Option(help="finished student folder, its ptq/ included; can be repeated")
    ] = None,
    calibration_set: Annotated[
        Path | None, typer.Option(help="the set a student was made with, to be shown in report.html")
    ] = None,
    held_back: Annotated[
        Path | None,
        typer.Option(help="set to measure agreement on, without labelled images; default: held-back/ in the set"),
    ] = None,
    overwrite: Overwrite = False,
    given_set: GivenSet = None,
) -> None:
    """Evaluate the full-precision teacher and its students on labelled images, or their agreement without labels."""
    with run_stage("eval") as stage:
        rank = Rank.of_environment()
        rank.must_be_alone("eval")
        settings = read_stage_config("eval", EvalConfig, config, run_config, assignments)
        given = Given(calibration_set, given_set, held_back)
        evaluation = resolve(settings, student or [], given)
        job = Job(stage, Output(output / REPORT, EvalReport, evaluation.provenance, overwrite), rank)
        with job.output.claim(stage, rank) as wanted:
            if not wanted:
                again(job, evaluation.settings.require, student or [], given.shown)
                return

            if given.shown is not None:
                open_calibration_set(given.shown)  # better found damaged now than after minutes of evaluation
            from eval_job.job import evaluate  # torch takes seconds to import, and "up to date" needs none of it

            page = partial(write_page, students=student or [], calibration_set=given.shown, output=output / PAGE)
            evaluate(evaluation, page, job)


def again(
    job: Job[EvalReport], require: Requirements | None, students: list[Path], calibration_set: Path | None
) -> None:
    """Judge a finished evaluation by what is required of it now, and make its page again from what is there.

    Raises:
        RequirementMissed: it falls short.
    """
    output = job.output.folder
    stored = EvalReport.read(output / REPORT)
    report = judge(stored, require)
    if report != stored:
        job.output.publish(report)
    # With what an earlier run was not given.
    if report != stored or students or calibration_set is not None or not (output / PAGE).exists():
        rebuild_page(output, students, calibration_set, output / PAGE)
    job.stage.reporter.message(f"up to date: {output / PAGE}", path=str(output / PAGE))
    check_met(report)


if __name__ == "__main__":
    app()
