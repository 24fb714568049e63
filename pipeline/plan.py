"""From a run's configuration to the commands of its three stages, which meet only in folders of one storage."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from schemas.base import Contract
from schemas.calibration_set import MANIFEST as SET_MANIFEST
from schemas.errors import ConfigError
from schemas.evaluation import PAGE
from schemas.files import expanded
from schemas.run_config import RunConfig
from schemas.student import MANIFEST as STUDENT_MANIFEST
from schemas.target import Target, exported_path
from stages.storage import write_text

CALIBRATION_FOLDER = "calibration"
STUDENT_FOLDER = "student"
EVAL_FOLDER = "eval"
CONFIG_FOLDER = "config"
SEARCH_FOLDER = "search"


@dataclass(frozen=True)
class StageCommand:
    """One stage as a process of its own; enough for any executor to start it."""

    stage: str
    """synth, qat or eval."""
    config: Contract
    """The stage's whole configuration, written to `config_path` before the stage starts."""
    config_path: Path
    storage: Path
    """Folder of the run: what earlier stages made lies here."""
    output: Path
    """Folder below it that this stage writes."""
    arguments: tuple[str, ...]
    """Arguments of the job's entry point."""

    @property
    def module(self) -> str:
        """Python module of the job."""
        return f"{self.stage}_job"

    @property
    def by_hand(self) -> str:
        """The same stage as a person would type it."""
        return shlex.join(("zsq", self.stage, *self.arguments))


def plan_stages(config: RunConfig, *, overwrite: bool = False) -> tuple[StageCommand, ...]:
    """The commands of a run, in order."""
    storage = expanded(config.storage)
    calibration, student = storage / CALIBRATION_FOLDER, storage / STUDENT_FOLDER
    made_with = ("--calibration-set", str(calibration))
    evaluated = ("--student", str(student), *made_with)
    return (
        _command("synth", config.for_stage("synth"), storage, calibration, (), overwrite),
        _command("qat", config.for_stage("qat"), storage, student, made_with, overwrite),
        _command("eval", config.for_stage("eval"), storage, storage / EVAL_FOLDER, evaluated, overwrite),
    )


def plan_try(config: RunConfig, name: str, *, overwrite: bool = False) -> tuple[StageCommand, StageCommand]:
    """Qat and eval of a student that is tried, below `search/<name>`: without files, timings and pictures."""
    storage = Path(config.storage).expanduser()
    calibration, folder = storage / CALIBRATION_FOLDER, storage / SEARCH_FOLDER / name
    made_with = ("--calibration-set", str(calibration))
    qat = config.qat.model_copy(update={"targets": ()})
    onnx = config.eval.onnx.model_copy(update={"models": "none"})
    judge = config.eval.model_copy(
        update={"onnx": onnx, "samples": 0, "require": None, "layer_images": 0, "advice_images": 0}
    )
    evaluated = ("--student", str(folder / STUDENT_FOLDER), *made_with)
    return (
        _command("qat", qat, storage, folder / STUDENT_FOLDER, made_with, overwrite),
        _command("eval", judge, storage, folder / EVAL_FOLDER, evaluated, overwrite),
    )


def artifacts(config: RunConfig) -> dict[str, Path]:
    """What a finished run leaves, by what it is."""
    storage = expanded(config.storage)
    student = storage / STUDENT_FOLDER
    files = [exported_path(student, target) for target in Target]
    exported = {f"exported {path.name}": path for path in files if path.exists()}
    return {
        "calibration set": storage / CALIBRATION_FOLDER,
        "student": student,
        **exported,
        "report": storage / EVAL_FOLDER / PAGE,
    }


@dataclass(frozen=True)
class ReportFolders:
    """What a report is built from."""

    evaluation: Path
    students: tuple[Path, ...]
    calibration_set: Path | None


def report_folders(
    storage: Path | None, evaluation: Path | None, students: Sequence[Path], calibration_set: Path | None
) -> ReportFolders:
    """The folders a report is built from: named one by one, or those of a run that are there.

    Raises:
        ConfigError: neither or both of storage and evaluation are named.
    """
    if evaluation is not None and storage is None:
        return ReportFolders(evaluation, tuple(students), calibration_set)
    if storage is None or evaluation is not None:
        raise ConfigError("name either the storage folder of a run, or an evaluation with --evaluation")
    if not students and (storage / STUDENT_FOLDER / STUDENT_MANIFEST).exists():
        students = [storage / STUDENT_FOLDER]
    if calibration_set is None and (storage / CALIBRATION_FOLDER / SET_MANIFEST).exists():
        calibration_set = storage / CALIBRATION_FOLDER
    return ReportFolders(storage / EVAL_FOLDER, tuple(students), calibration_set)


def _command(
    stage: str, config: Contract, storage: Path, output: Path, inputs: tuple[str, ...], overwrite: bool
) -> StageCommand:
    path = storage / CONFIG_FOLDER / f"{stage}.yaml"
    arguments = ("--config", str(path), *inputs, "--output", str(output))
    return StageCommand(stage, config, path, storage, output, arguments + (("--overwrite",) if overwrite else ()))


def write_stage_config(command: StageCommand) -> None:
    """Write a stage's whole configuration, so that the stage can be run alone with exactly that file.

    Raises:
        InputError: the storage cannot be written.
    """
    text = f"# Written by `zsq run`. This stage alone: {command.by_hand}\n{_yaml(command.config)}"
    write_text(command.config_path, text)


def describe_plan(config: RunConfig, commands: tuple[StageCommand, ...], facts: Sequence[tuple[str, str]] = ()) -> str:
    """The plan as YAML that `zsq run` itself reads back; what was found out about it and the commands as comments."""
    lines = [f"# {term}: {text}" for term, text in facts]
    lines += ["# Would run, in this order:", *(f"#   {command.by_hand}" for command in commands), _yaml(config)]
    return "\n".join(lines).rstrip("\n")


def _yaml(config: Contract) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
