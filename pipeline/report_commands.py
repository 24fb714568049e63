"""`zsq report`: pages of finished evaluations, from what is stored."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stages.stage import run_stage


class _PageUnlessNamed(TyperGroup):
    """`zsq report runs/default` is `zsq report page runs/default`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["page", *args]
        return super().parse_args(ctx, args)


report_app = typer.Typer(cls=_PageUnlessNamed, help="Pages of finished evaluations, from what is stored: no torch.")


@report_app.command("page")
def report(
    storage: Annotated[Path | None, typer.Argument(metavar="[STORAGE]", help="folder of a whole run")] = None,
    evaluation: Annotated[
        Path | None, typer.Option("--evaluation", metavar="FOLDER", help="what eval made, in place of STORAGE")
    ] = None,
    student: Annotated[
        list[Path] | None, typer.Option("--student", metavar="FOLDER", help="a student it evaluated; can be repeated")
    ] = None,
    calibration_set: Annotated[
        Path | None, typer.Option("--calibration-set", metavar="FOLDER", help="the set a student was made with")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="default: report.html in the evaluation")
    ] = None,
) -> None:
    """Build report.html again from artifacts: no teacher, no validation image, no torch."""
    from eval_job.report.page import rebuild_page  # loads numpy and Pillow
    from pipeline.plan import report_folders
    from schemas.evaluation import PAGE

    with run_stage("report") as stage:
        folders = report_folders(storage, evaluation, student or [], calibration_set)
        page = output or folders.evaluation / PAGE
        rebuild_page(folders.evaluation, folders.students, folders.calibration_set, page)
        stage.reporter.message(f"report: {page}", path=str(page))


@report_app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders of runs, or of their evaluations")],
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="the page")] = Path("compare.html"),
) -> None:
    """Runs beside runs: what each keeps, what it costs, in which settings they differ."""
    from eval_job.report.compare import write_comparison

    with run_stage("report") as stage:
        write_comparison(folders, output)
        stage.reporter.message(f"comparison: {output}", path=str(output))


@report_app.command()
def track(
    evaluation: Annotated[Path, typer.Argument(metavar="EVALUATION", help="what eval made")],
    to: Annotated[str, typer.Option("--to", metavar="URI", help="tracking URI, sqlite:///mlflow.db for example")],
    experiment: Annotated[str, typer.Option("--experiment", metavar="NAME", help="of MLflow")] = "zsq",
) -> None:
    """Log an evaluation as a run of MLflow: figures, settings, page. Nothing is sent anywhere but to URI."""
    from eval_job.report.tracking import log_evaluation

    with run_stage("report") as stage:
        run = log_evaluation(evaluation, to, experiment)
        stage.reporter.message(f"run {run} of experiment {experiment} at {to}")
