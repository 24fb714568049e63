"""The settings of a run: a YAML file, or the embedded default, then `--set` assignments."""

from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from schemas.base import read_config_values, set_by_dotted_key, validate_config
from schemas.errors import InputError
from schemas.run_config import RunConfig


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
    named = {
        "synth.labels.path": config.synth.labels.path,
        "eval.data": None if config.eval.data == "embedded" else config.eval.data,
        "eval.images": config.eval.images,
    }
    if "/" in config.teacher.path:  # anything else may be the name of a published checkpoint
        named["teacher.path"] = str(Path(config.teacher.path).expanduser())
    for setting, path in named.items():
        if path is not None and "://" not in path and not Path(path).exists():
            raise InputError(f"{setting}: {path} does not exist (looked from {Path.cwd()}); correct the path")
