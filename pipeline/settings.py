"""The settings of a run: a YAML file, or the embedded default, then `--set` assignments."""

from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from detectors.source import EMBEDDED
from label_formats.pascal_voc import is_voc, list_root
from schemas.base import Contract, read_config_values, set_by_dotted_key, validate_config
from schemas.errors import InputError
from schemas.eval_config import EvalConfig
from schemas.qat_config import QatConfig
from schemas.run_config import RunConfig
from schemas.synth_config import SynthConfig


def read_run_config(path: Path | None, assignments: Sequence[str] = (), storage: Path | None = None) -> RunConfig:
    """The validated configuration of a run.

    Args:
        path: YAML file; None takes the embedded default.
        assignments: `section.key=value`, applied in order on top of the file.
        storage: takes the place of the configuration's `storage`.

    Raises:
        ConfigError: the file cannot be read, or a setting is not valid.
    """
    values = read_config_values(path) if path else embedded_values()
    for assignment in assignments:
        values = set_by_dotted_key(values, assignment)
    if storage is not None:
        values = values | {"storage": str(storage)}
    return validate_config(RunConfig, values, str(path) if path else "embedded default with --set")


def embedded_values() -> dict[str, Any]:
    """The values of the run that `zsq run` does without a configuration file."""
    with as_file(files("pipeline") / "defaults" / "embedded.yaml") as path:
        return read_config_values(path)


def check_inputs(config: RunConfig) -> None:
    """Check before the first stage that files which only a later stage reads are there.

    Raises:
        InputError: naming the setting and the missing path.
    """
    for stage in ("synth", "qat", "eval"):
        for setting, path in stage_inputs(getattr(config, stage)).items():
            if not path.exists():
                name = setting if setting == "teacher.path" else f"{stage}.{setting}"
                raise InputError(f"{name}: {path} does not exist (looked from {Path.cwd()}); correct the path")


def stage_inputs(config: Contract) -> dict[str, Path]:
    """Files and folders that a stage reads besides what earlier stages made, by setting.

    A published checkpoint's name counts where the file is in the working folder, or was downloaded into it.
    """
    named: dict[str, str | Path | None] = {}
    if isinstance(config, SynthConfig | QatConfig | EvalConfig):
        teacher = config.teacher.path
        if "/" in teacher or Path(teacher).is_file():
            named["teacher.path"] = teacher
    if isinstance(config, SynthConfig):
        named["labels.path"] = _whole(config.labels.path) if config.labels.path else None
    if isinstance(config, EvalConfig):
        named["data"] = _whole(config.data) if config.data != EMBEDDED else None
        named["images"] = config.images
        if config.images is None and Path(str(named["data"])).is_file():
            named["images"] = Path(config.data).parent / "images"  # where eval looks
    return {setting: Path(path).expanduser() for setting, path in named.items() if path is not None}


def _whole(path: str) -> Path:
    """A file or folder with all that is read beside it: a list of Pascal VOC images stands for its whole folder."""
    found = Path(path).expanduser()
    return list_root(found) if found.is_file() and is_voc(found) else found
