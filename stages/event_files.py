"""Where synth and qat leave TensorBoard event files, if asked to; writing them needs the extra `tensorboard`."""

import importlib.util
import shutil
from pathlib import Path

from schemas.errors import ConfigError
from stages.extras import how_to_install

EVENTS_FOLDER = "tensorboard"
"""Folder of the event files, in the output folder of a stage."""


def require_tensorboard() -> None:
    """Check that event files can be written.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            f"tensorboard: true, but TensorBoard is not installed; {how_to_install('tensorboard')}, or set it to false"
        )


def events_folder(output: Path) -> Path:
    """An empty place for the event files of a stage that begins: those of an earlier run would mix with them.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    require_tensorboard()
    folder = output / EVENTS_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    return folder
