"""The `zsq` command line."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.executor_names import ExecutorName
from pipeline.report_commands import report_app
from pipeline.sets.commands import set_app
from schemas.engine_names import Target
from schemas.errors import ExitCode
from schemas.text import redacted
from schemas.version import code_version
from stages.options import RUN_CONFIG_VARIABLE, Assignments, ConfigFile, Overwrite, RunConfigFile
from stages.stage import run_stage

# What a command needs beyond this is loaded when it runs: `zsq --help` waits for none of it.

app = typer.Typer(
    help="Zero-shot quantization-aware training for object detectors: 8, 6 or 4 bits without the training images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback is a bug: leave it as Python prints it
)
app.add_typer(set_app, name="set")
app.add_typer(report_app, name="report")


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
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[DETECTOR]",
            envvar=RUN_CONFIG_VARIABLE,
            help="checkpoint file, published name (yolo11n.pt) or YAML file of a run; default: the embedded detector",
        ),
    ] = None,
    bits: Annotated[str | None, typer.Option("--bits", metavar="W8A8", help="bits of weights and activations")] = None,
    budget: Annotated[
        float | None,
        typer.Option("--budget", metavar="BITS", help="mean weight bits; each layer gets what it needs, 4 or 8"),
    ] = None,
    images: Annotated[int | None, typer.Option("--images", metavar="N", help="images of the synthetic set")] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="SIDE|HEIGHTxWIDTH", help="as 640 or 384x640; default: the checkpoint's own"),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="PATH", help="labelled images, for mAP: COCO, YOLO or VOC")
    ] = None,
    photos: Annotated[
        str | None, typer.Option("--photos", metavar="FOLDER", help="unlabelled photographs, for agreement")
    ] = None,
    targets: Annotated[
        list[str] | None, typer.Option("--target", metavar="NAME", help="engine to export for; can be repeated")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", metavar="POINTS", min=0.01, max=100, help="fewest bits that lose at most this"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "--storage", metavar="FOLDER", help="where set, student and report go")
    ] = None,
    assignments: Assignments = None,
    executor: Annotated[ExecutorName, typer.Option("--executor", help="what starts the stages")] = ExecutorName.LOCAL,
    overwrite: Overwrite = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check everything, print the plan and exit")] = False,
) -> None:
    """Run the whole pipeline on a detector: a synthetic set, a quantized student, a report. No image is needed."""
    from pipeline.conductor import conduct, described_run
    from pipeline.plan import artifacts
    from pipeline.settings import RunOptions, read_run_config

    with run_stage("run") as stage:
        options = RunOptions(bits, images, size, data, photos, tuple(targets or ()), budget, max_drop)
        chosen = [*(assignments or []), *options.assignments()]
        if _typed(context, "assignments"):
            options.check_against(assignments or [], source, output)
        settings = read_run_config(source, chosen, output)
        if dry_run:
            stage.reporter.output(redacted(described_run(settings, executor, overwrite, max_drop)))
            return
        code = conduct(settings, executor, overwrite, stage, max_drop)
        if code in (ExitCode.DONE, ExitCode.NOT_MET):
            stage.reporter.table("Done", ("", ""), [(each, str(path)) for each, path in artifacts(settings).items()])
        if code:
            sys.exit(code)


def _typed(context: typer.Context, parameter: str) -> bool:
    """Whether a parameter stands on the command line; what an environment variable gives, options may change."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


@app.command()
def synth(
    output: Output,
    config: ConfigFile = None,
    run_config: RunConfigFile = None,
    assignments: Assignments = None,
    overwrite: Overwrite = False,
) -> None:
    """Stage 1 alone: make a labelled calibration set from a teacher, without a real image."""
    _run_alone("synth_job", config, run_config, assignments, (), output, overwrite)


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
    _run_alone(
        "qat_job", config, run_config, assignments, ("--calibration-set", str(calibration_set)), output, overwrite
    )


@app.command()
def sensitivity(
    context: typer.Context,
    calibration_set: Annotated[Path, typer.Option("--calibration-set", metavar="FOLDER", help="what synth made")],
    output: Output,
    budget: Annotated[
        float | None,
        typer.Option("--budget", metavar="BITS", help="plan: at most this mean over all quantized weights"),
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option("--max-drop", metavar="SHARE", help="plan: largest loss on the set, before training")
    ] = None,
    candidates: Annotated[
        str | None, typer.Option("--candidates", metavar="BITS,...", help="weight bits to measure; default: 4,8")
    ] = None,
    config: ConfigFile = None,
    run_config: RunConfigFile = None,
    assignments: Assignments = None,
    overwrite: Overwrite = False,
) -> None:
    """Which layer hurts: measure each layer's sensitivity on a calibration set, and plan mixed precision for qat."""
    section = "qat.sensitivity" if run_config and not config else "sensitivity"
    options = {"budget": budget, "max_drop": max_drop, "candidates": candidates and f"[{candidates}]"}
    given = [f"{section}.{name}={value}" for name, value in options.items() if value is not None]
    if _typed(context, "assignments"):
        from pipeline.settings import check_same

        with run_stage("sensitivity"):
            check_same(assignments or (), given)
    inputs = ("--calibration-set", str(calibration_set))
    _run_alone("qat_job.sensitivity", config, run_config, [*(assignments or ()), *given], inputs, output, overwrite)


@app.command("eval")
def evaluate(
    output: Output,
    student: Annotated[
        list[Path] | None, typer.Option("--student", metavar="FOLDER", help="what qat made; can be repeated")
    ] = None,
    calibration_set: Annotated[
        Path | None, typer.Option("--calibration-set", metavar="FOLDER", help="shown in the report; what synth made")
    ] = None,
    held_back: Annotated[
        Path | None,
        typer.Option("--held-back", metavar="FOLDER", help="images for agreement; default: held-back/ in the set"),
    ] = None,
    config: ConfigFile = None,
    run_config: RunConfigFile = None,
    assignments: Assignments = None,
    overwrite: Overwrite = False,
) -> None:
    """Stage 3 alone: students on labelled images, or without labels their agreement with full precision."""
    inputs = [argument for folder in student or () for argument in ("--student", str(folder))]
    inputs += ["--calibration-set", str(calibration_set)] if calibration_set else []
    inputs += ["--held-back", str(held_back)] if held_back else []
    _run_alone("eval_job", config, run_config, assignments, inputs, output, overwrite)


@app.command("export")
def export_onnx(
    student: Annotated[Path, typer.Option("--student", metavar="FOLDER", help="what qat made")],
    target: Annotated[
        Target, typer.Option("--target", help="engine that the file is for; zsq targets describes them")
    ] = Target.ONNXRUNTIME,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="default: model.<target>.onnx or .tflite beside the student"),
    ] = None,
    calibration_set: Annotated[
        Path | None,
        typer.Option("--calibration-set", metavar="FOLDER", help="the set that the student was made with"),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            "--image-size",
            metavar="SIDE|HEIGHTxWIDTH",
            help="to compare at, as 640 or 384x640; default: the set's",
        ),
    ] = None,
    int4: Annotated[bool, typer.Option("--int4", help="INT4 weights where 4 bits are enough: half the bytes")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a student as a file for an engine, as qat does by default: again, or otherwise."""
    from pipeline.export import export, export_form

    with run_stage("export") as stage:
        form = export_form(student, target, image_size, int4)
        export(student, calibration_set, output, form, overwrite, stage)


@app.command()
def thresholds(
    student: Annotated[Path, typer.Option("--student", metavar="FOLDER", help="what qat made, with its files")],
    evaluation: Annotated[Path, typer.Option("--evaluation", metavar="FOLDER", help="what eval made of it")],
) -> None:
    """Write the confidence thresholds that an evaluation found into the metadata of a student's files."""
    from pipeline.thresholds import write_thresholds

    with run_stage("export") as stage:
        write_thresholds(student, evaluation, stage)


@app.command()
def targets() -> None:
    """Which engines students are exported for: where each has its quantizers, and what was measured."""
    from quantization.engines.target import OwnFormat, engine_target  # loads onnx and torch

    with run_stage("targets") as stage:
        rows = []
        for target in Target:
            engine = engine_target(target)
            needs = ["calibration images"] if engine.needs_images else []
            needs += [engine.requires] if isinstance(engine, OwnFormat) else []
            rows.append((target.value, engine.title, engine.placement, "; ".join(needs), engine.measured))
        stage.reporter.table("Targets", ("target", "engine", "quantizers", "needs", "measured"), rows)


def _run_alone(
    module: str,
    config: Path | None,
    run_config: Path | None,
    assignments: list[str] | None,
    inputs: list[str] | tuple[str, ...],
    output: Path,
    overwrite: bool,
) -> None:
    """Hand the options to the job's own entry point and exit with its exit code."""
    from pipeline.local_executor import run_job

    arguments = ["--config", str(config)] if config else []
    arguments += ["--run-config", str(run_config)] if run_config else []
    for assignment in assignments or ():
        arguments += ["--set", assignment]
    arguments += [*inputs, "--output", str(output), *(["--overwrite"] if overwrite else [])]
    sys.exit(run_job(module, arguments))


if __name__ == "__main__":
    app()
