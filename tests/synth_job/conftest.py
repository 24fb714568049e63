"""A small teacher, tiny settings, and the command as a user runs it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from detectors.protocol import Detector
from stages.stage import Stage
from synth_job.__main__ import main

TINY: dict[str, Any] = {
    "image_size": 64,
    "images": 4,
    "shard_size": 2,
    "labels.size": 64,
    "labels.iterations": 4,
    "labels.warm_up": 1,
    "labels.interval": 1,
    "labels.batch": 2,
    "inversion.iterations": 3,
    "inversion.batch": 2,
    "device": "cpu",
}


@pytest.fixture(scope="session")
def teacher(small_teacher: Detector) -> Detector:
    """The small detector of scenes; tests must not change it."""
    return small_teacher


@pytest.fixture
def stage() -> Stage:
    """A stage that was not asked to stop."""
    return Stage("synth")


@pytest.fixture(scope="session")
def synth(small_checkpoint: Path) -> Callable[..., Result]:
    """`python -m synth_job --output FOLDER` at tiny settings; keyword arguments (dots as __) are `--set`."""
    app = typer.Typer()
    app.command()(main)

    def run(folder: Path, *arguments: str, **settings: Any) -> Result:
        values = TINY | {"teacher.path": str(small_checkpoint)}
        values |= {key.replace("__", "."): value for key, value in settings.items()}
        pairs = [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        return CliRunner().invoke(app, ["--output", str(folder), *pairs, *arguments])

    return run


@pytest.fixture(scope="session")
def finished(synth: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny set with random labels; tests must not change it."""
    folder = tmp_path_factory.mktemp("finished")
    result = synth(folder, labels__source="random")
    assert result.exit_code == 0, result.output
    return folder
