"""The settings of a run: a YAML file, a checkpoint with defaults that fit it, or the embedded default; then options."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from os.path import exists, isfile
from pathlib import Path
from typing import Any

from detectors.transformers.saved_model import is_saved_model
from schemas.base import Contract, read_config_values, set_by_dotted_key, validate_config
from schemas.errors import ConfigError, InputError
from schemas.eval_config import EvalConfig
from schemas.files import expanded
from schemas.image_size import ImageSize
from schemas.plain_yaml import plain_value
from schemas.qat_config import QatConfig
from schemas.run_config import RunConfig
from schemas.synth_config import SynthConfig
from schemas.teacher import EMBEDDED

YAML_SUFFIXES = (".yaml", ".yml", ".json")
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".safetensors", ".ckpt", ".onnx")
BITS = re.compile(r"w([2-8])a([2-8])", re.IGNORECASE)
MOST_BITS = 8
"""Weight bits that are planned down from: with a budget, bits of w8 set the activations alone."""


@dataclass(frozen=True)
class RunOptions:
    """What most runs set; every other setting is in YAML and `--set`.

    Attributes:
        bits: weight and activation bits, as `w8a8`.
        images: of the calibration set.
        size: of the images that the student will see: a side in pixels, or `384x640` (height x width).
        data: labelled images to measure accuracy on.
        photos: folder of unlabelled photographs to measure agreement on.
        targets: engines that the student is made for.
        budget: mean weight bits; how many each layer gets is planned.
        max_drop: points of mAP50-95 that may be lost; the weight bits are found by trying. No setting of a stage.
    """

    bits: str | None = None
    images: int | None = None
    size: int | str | ImageSize | None = None
    data: str | Path | None = None
    photos: str | Path | None = None
    targets: Sequence[str] = ()
    budget: float | None = None
    max_drop: float | None = None

    def assignments(self) -> list[str]:
        """The same as `section.key=value`.

        Raises:
            ConfigError: the bits are not written as `w8a8`, or the size not as `640` or `384x640`; two options decide
                the weight bits.
        """
        values = self._bits()
        if self.budget is not None:
            values["qat.sensitivity.budget"] = self.budget
        if self.images is not None:
            values["synth.images"] = self.images
        if self.size is not None:  # in the sections too: one that a file sets there would win over the shared one
            size = (self.size if isinstance(self.size, ImageSize) else size_option("size", str(self.size))).plain()
            values |= {"image_size": size, "synth.image_size": size, "eval.image_size": size}
        if self.data is not None:
            values["eval.data"] = str(self.data)
        if self.photos is not None:
            values["eval.photos"] = str(self.photos)
        if self.targets:
            values["qat.targets"] = list(self.targets)
        return [assignment(key, value) for key, value in values.items()]

    def check_against(
        self, given: Sequence[str], source: str | Path | None = None, output: str | Path | None = None
    ) -> None:
        """Check that settings given beside these options say nothing else.

        Args:
            given: `section.key=value`.
            source: detector or YAML file of the run.
            output: folder of the run.

        Raises:
            ConfigError: one gives another value than an option, the detector or the folder; or as `assignments`.
        """
        asked = [*self.assignments(), *([assignment("storage", str(output))] if output is not None else [])]
        if source is not None and not is_configuration(Path(source)):
            asked.append(assignment("teacher.path", str(source)))
        check_same(given, asked)

    def _bits(self) -> dict[str, Any]:
        """The bits of weights and activations as settings.

        Raises:
            ConfigError: they are not written as `w8a8`, or a budget or a largest drop decides those of weights.
        """
        if self.bits is None:
            return {}
        found = BITS.fullmatch(self.bits)
        if found is None:
            raise ConfigError(f"bits: got {self.bits!r}; write weight and activation bits, 2 to 8, as in w8a8 or w4a8")
        weights, activations = int(found[1]), int(found[2])
        for option, value in (("budget", self.budget), ("max-drop", self.max_drop)):
            if value is not None and weights != MOST_BITS:  # the most that a layer may get can be asked for
                raise ConfigError(
                    f"bits: {self.bits} asks for {weights} weight bits, but {option} {value:g} plans how many each "
                    f"layer gets; leave one of the two out, or write w{MOST_BITS}a{activations} to set the activations"
                )
        return {"qat.bits.weight_bits": weights, "qat.bits.activation_bits": activations}


def check_same(given: Sequence[str], asked: Sequence[str]) -> None:
    """Check that assignments somebody gave do not contradict what the options of the same command ask for.

    Raises:
        ConfigError: one setting has two values.
    """
    theirs = _assigned({}, given)
    for key, _, text in (each.partition("=") for each in asked):
        there = _value(theirs, key)
        if there is not None and there != plain_value(text):
            got = json.dumps(there, default=str)
            raise ConfigError(f"{key}: is set to {got}, but the command asks for {text}; leave one of the two out")


def size_option(option: str, text: str) -> ImageSize:
    """The size that an option names.

    Raises:
        ConfigError: it is not written as `640` or `384x640`.
    """
    try:
        return ImageSize.parse(text)
    except ValueError as error:
        raise ConfigError(f"{option}: got {text!r}; {error}") from error


def assignment(key: str, value: Any) -> str:
    """A setting as `--set` takes it; the value is written as JSON, which YAML reads."""
    return f"{key}={json.dumps(value)}"


def read_run_config(
    source: str | Path | None, assignments: Sequence[str] = (), storage: Path | None = None
) -> RunConfig:
    """The validated configuration of a run.

    Args:
        source: YAML file, or a detector: checkpoint file or published name; None takes the embedded detector, or the
            one that an assignment names.
        assignments: `section.key=value`, applied in order on top of it.
        storage: takes the place of the configuration's `storage`.

    Raises:
        ConfigError: the file cannot be read, or a setting is not valid.
    """
    if source is not None and is_configuration(Path(source)):
        values, where = _assigned(read_config_values(Path(source)), assignments), str(source)
    else:
        values = {} if source is None else {"teacher": {"path": str(source)}}
        values, where = _assigned(values, assignments), "options"
        teacher = _teacher_path(values)
        if teacher == EMBEDDED:
            values, where = _assigned(embedded_values(), assignments), "embedded default with --set"
        elif "storage" not in values:
            values["storage"] = f"runs/{Path(teacher).stem}"
    if storage is not None:
        values = values | {"storage": str(storage)}
    return validate_config(RunConfig, values, where)


def is_configuration(source: Path) -> bool:
    """Whether `source` is the YAML file of a run and no detector: by its name, else by whether it is text."""
    if source.suffix.lower() in YAML_SUFFIXES:
        return True
    if source.suffix.lower() in CHECKPOINT_SUFFIXES:
        return False
    if is_saved_model(source):
        return False
    if not source.is_file():
        return source.exists()  # a pipe; what is not there is a published name
    with source.open("rb") as stream:
        return b"\0" not in stream.read(1024)


def embedded_values() -> dict[str, Any]:
    """The values of the run that `zsq run` does without a configuration file."""
    with as_file(files("pipeline") / "defaults" / "embedded.yaml") as path:
        return read_config_values(path)


def check_inputs(config: RunConfig) -> None:
    """Check before the first stage what only a later stage reads: that it is there, and that labels can be read.

    Raises:
        InputError: naming the setting and the missing path, or what is wrong with labels or their images; or the
            detector's file is an exported model, or of another task.
        ConfigError: settings that do not go with the validation data.
    """
    from detectors.source import checkpoint_family, checkpoint_path
    from eval_job.data import find_validation_data  # loads numpy and Pillow, which no other command needs at once
    from label_formats.find import check_given

    for stage in ("synth", "qat", "eval"):
        for setting, path in stage_inputs(getattr(config, stage)).items():
            if not exists(path):
                name = setting if setting == "teacher.path" else f"{stage}.{setting}"
                raise InputError(f"{name}: {path} does not exist (looked from {Path.cwd()}); correct the path")
    teacher = expanded(config.teacher.path)
    if config.teacher.path != EMBEDDED and teacher.exists():
        checkpoint_family(config.teacher, checkpoint_path(config.teacher))
    if config.synth.labels.path:
        check_given(expanded(config.synth.labels.path))
    data = config.eval.labelled_data
    if data is not None:
        find_validation_data(data, config.eval.images, config.eval.split).check()


def stage_inputs(config: Contract) -> dict[str, Path]:
    """Files and folders that a stage reads besides what earlier stages made, by setting.

    A published checkpoint's name counts where the file is in the working folder, or was downloaded into it.
    """
    inputs: dict[str, Path] = {}
    if isinstance(config, SynthConfig | QatConfig | EvalConfig):
        teacher = config.teacher.path
        path = expanded(teacher)
        if "/" in teacher or path.exists():
            # The weights of a saved model are read together with the descriptions beside them.
            inputs["teacher.path"] = path.parent if path.is_file() and is_saved_model(path) else path
    if isinstance(config, SynthConfig) and config.labels.path:
        inputs |= _labelled("labels.path", config.labels.path)
    if isinstance(config, EvalConfig):
        data = config.labelled_data
        if data is not None and data != EMBEDDED:
            inputs |= _labelled("data", data)
        if config.images:
            inputs["images"] = expanded(config.images)
        elif data is not None and data != EMBEDDED:
            inputs |= _images_of_coco(expanded(data))
        if config.photos is not None:
            inputs["photos"] = expanded(config.photos)
    return inputs


def _labelled(setting: str, path: str) -> dict[str, Path]:
    """A file or folder of labels with all that is read beside it, a name for each."""
    from label_formats.find import folders_read  # loads numpy and Pillow

    found = expanded(path)
    paths = folders_read(found) if exists(found) else [found]
    return {f"{setting}{f' ({number})' if number else ''}": each for number, each in enumerate(paths)}


def _images_of_coco(path: Path) -> dict[str, Path]:
    """Where eval looks for the images of a COCO file."""
    from label_formats.find import coco_images, format_of

    return {"images": coco_images(path)} if isfile(path) and format_of(path) == "coco" else {}


def _assigned(values: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    for assignment in assignments:
        values = set_by_dotted_key(values, assignment)
    return values


def _value(values: Any, key: str) -> Any:
    """The value at a dotted key of values that are not validated yet; None where there is none."""
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _teacher_path(values: dict[str, Any]) -> str:
    """The teacher of values that are not validated yet."""
    teacher = values.get("teacher")
    return str(teacher.get("path", EMBEDDED)) if isinstance(teacher, dict) else EMBEDDED
