"""The `zsq` command line."""

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.executor import Executor, run_stages
from pipeline.local_executor import LocalExecutor, run_job
from pipeline.plan import describe_plan, plan_stages, write_stage_configs
from pipeline.sets.commands import set_app
from pipeline.settings import check_inputs, read_run_config
from schemas.provenance import code_version
from schemas.stage import run_stage
from schemas.stage_config import RUN_CONFIG_VARIABLE, Assignments, ConfigFile, Overwrite, RunConfigFile

app = typer.Typer(
    help="Zero-shot quantization-aware training for object detectors: 8, 6 or 4 bits without the training images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback is a bug: leave it as Python prints it
)
app.add_typer(set_app, name="set")


class ExecutorName(StrEnum):
    """Where the stages of a run are started."""

    LOCAL = "local"
    DOCKER = "docker"


def _docker_executor() -> Executor:
    from pipeline.docker_executor import DockerExecutor  # loads the SDK, which no other command needs

    return DockerExecutor()


EXECUTORS: dict[ExecutorName, Callable[[], Executor]] = {
    ExecutorName.LOCAL: LocalExecutor,
    ExecutorName.DOCKER: _docker_executor,
}

Output = Annotated[Path, typer.Option("--output", metavar="FOLDER", help="folder of what the stage makes")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"zsq {code_version()}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    """Zero-shot quantization-aware training for object detectors: 8, 6 or 4 bits without the training images."""


@app.command()
def run(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG]", envvar=RUN_CONFIG_VARIABLE, help="YAML file; default: embedded run"),
    ] = None,
    assignments: Assignments = None,
    storage: Annotated[
        Path | None, typer.Option("--storage", metavar="FOLDER", help="where calibration set, student and report go")
    ] = None,
    executor: Annotated[ExecutorName, typer.Option("--executor", help="what starts the stages")] = ExecutorName.LOCAL,
    overwrite: Overwrite = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the validated plan and exit")] = False,
) -> None:
    """Run the whole pipeline: synth, qat, eval. Without CONFIG: on the embedded teacher, in minutes on a CPU."""
    with run_stage("run") as stage:
        settings = read_run_config(config, assignments or (), storage)
        check_inputs(settings)
        commands = plan_stages(settings, overwrite=overwrite)
        if dry_run:
            typer.echo(describe_plan(settings, commands))
            return
        starter = EXECUTORS[executor]()
        write_stage_configs(commands)
        code = run_stages(commands, starter, stage)
        if code:
            sys.exit(code)
        artifacts = zip(("calibration set", "student", "report"), commands, strict=True)
        stage.reporter.table("Done", ("", ""), [(name, str(command.output)) for name, command in artifacts])


@app.command()
def synth(
    output: Output,
    config: ConfigFile = None,
    run_config: RunConfigFile = None,
    assignments: Assignments = None,
    overwrite: Overwrite = False,
) -> None:
    """Stage 1 alone: make a labelled calibration set from a teacher, without a real image."""
    _run_alone("synth", config, run_config, assignments, (), output, overwrite)


@app.command()
def qat(
    calibration_set: Annotated[Path, typer.Option("--calibration-set", metavar="FOLDER", help="what synth made")],
    output: Output,
    config: ConfigFile = None,
    run_config: RunConfigFile = None,
    assignments: Assignments = None,
    overwrite: Overwrite = False,
) -> None:
    """Stage 2 alone: train a quantized student on a calibration set."""
    _run_alone("qat", config, run_config, assignments, ("--calibration-set", str(calibration_set)), output, overwrite)


@app.command("eval")
def evaluate(
    output: Output,
    student: Annotated[
        list[Path] | None, typer.Option("--student", metavar="FOLDER", help="what qat made; can be repeated")
    ] = None,
    config: ConfigFile = None,
    run_config: RunConfigFile = None,
    assignments: Assignments = None,
    overwrite: Overwrite = False,
) -> None:
    """Stage 3 alone: compare students with the full-precision detector on real images."""
    students = [argument for folder in student or () for argument in ("--student", str(folder))]
    _run_alone("eval", config, run_config, assignments, students, output, overwrite)


def _run_alone(
    stage: str,
    config: Path | None,
    run_config: Path | None,
    assignments: list[str] | None,
    inputs: list[str] | tuple[str, ...],
    output: Path,
    overwrite: bool,
) -> None:
    """Hand the options to the job's own entry point and exit with its exit code."""
    arguments = ["--config", str(config)] if config else []
    arguments += ["--run-config", str(run_config)] if run_config else []
    for assignment in assignments or ():
        arguments += ["--set", assignment]
    arguments += [*inputs, "--output", str(output), *(["--overwrite"] if overwrite else [])]
    sys.exit(run_job(f"{stage}_job", arguments))


if __name__ == "__main__":
    app()
