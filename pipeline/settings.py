"""The settings of a run: a YAML file, or the embedded default, then `--set` assignments."""

from collections.abc import Sequence
from importlib.resources import as_file, files
from os.path import exists, isfile
from pathlib import Path
from typing import Any

from detectors.source import EMBEDDED
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
    """Check before the first stage what only a later stage reads: that it is there, and that labels can be read.

    Raises:
        InputError: naming the setting and the missing path, or what is wrong with labels or their images.
        ConfigError: settings that do not go with the validation data.
    """
    from eval_job.data import find_validation_data  # loads numpy and Pillow, which no other command needs at once
    from label_formats.find import check_given

    for stage in ("synth", "qat", "eval"):
        for setting, path in stage_inputs(getattr(config, stage)).items():
            if not exists(path):
                name = setting if setting == "teacher.path" else f"{stage}.{setting}"
                raise InputError(f"{name}: {path} does not exist (looked from {Path.cwd()}); correct the path")
    if config.synth.labels.path:
        check_given(Path(config.synth.labels.path).expanduser())
    find_validation_data(config.eval.data, config.eval.images, config.eval.split).check()


def stage_inputs(config: Contract) -> dict[str, Path]:
    """Files and folders that a stage reads besides what earlier stages made, by setting.

    A published checkpoint's name counts where the file is in the working folder, or was downloaded into it.
    """
    inputs: dict[str, Path] = {}
    if isinstance(config, SynthConfig | QatConfig | EvalConfig):
        teacher = config.teacher.path
        if "/" in teacher or Path(teacher).is_file():
            inputs["teacher.path"] = Path(teacher).expanduser()
    if isinstance(config, SynthConfig) and config.labels.path:
        inputs |= _labelled("labels.path", config.labels.path)
    if isinstance(config, EvalConfig) and config.data != EMBEDDED:
        inputs |= _labelled("data", config.data)
    if isinstance(config, EvalConfig) and config.images:
        inputs["images"] = Path(config.images).expanduser()
    elif isinstance(config, EvalConfig) and config.data != EMBEDDED:
        inputs |= _images_of_coco(Path(config.data).expanduser())
    return inputs


def _labelled(setting: str, path: str) -> dict[str, Path]:
    """A file or folder of labels with all that is read beside it, a name for each."""
    from label_formats.find import folders_read  # loads numpy and Pillow

    found = Path(path).expanduser()
    paths = folders_read(found) if exists(found) else [found]
    return {f"{setting}{f' ({number})' if number else ''}": each for number, each in enumerate(paths)}


def _images_of_coco(path: Path) -> dict[str, Path]:
    """Where eval looks for the images of a COCO file."""
    from label_formats.find import coco_images, format_of

    return {"images": coco_images(path)} if isfile(path) and format_of(path) == "coco" else {}
