from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from schemas.errors import ConfigError
from schemas.qat_config import QatConfig
from stages.options import Assignments, ConfigFile, RunConfigFile, read_stage_config

RUN = "seed: 3\nqat:\n  steps: 7\n"


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    return path


def read(config: Path | None = None, run_config: Path | None = None, *assignments: str) -> QatConfig:
    return read_stage_config("qat", QatConfig, config, run_config, assignments)


def test_without_any_file_the_defaults_and_assignments_hold():
    assert read(None, None, "steps=9") == QatConfig(steps=9)


def test_a_stage_takes_its_part_of_a_run_shared_settings_included(run_file):
    settings = read(None, run_file)
    assert (settings.steps, settings.seed) == (7, 3)


def test_assignments_are_in_the_terms_of_the_file_that_is_read(run_file, tmp_path):
    assert read(None, run_file, "qat.steps=9", "seed=4").steps == 9
    with pytest.raises(ConfigError, match="unknown key 'steps'"):
        read(None, run_file, "steps=9")


def test_the_stage_s_own_file_goes_before_the_run_s(run_file, tmp_path):
    own = tmp_path / "qat.yaml"
    own.write_text("steps: 11\n")
    assert read(own, run_file) == QatConfig(steps=11)


def test_a_run_is_checked_as_a_whole_before_any_stage_of_it_starts(run_file):
    with pytest.raises(ConfigError, match=r"synth\.images: got 0"):
        read(None, run_file, "synth.images=0")


def test_the_environment_stands_in_for_the_options(run_file):
    app = typer.Typer()

    @app.command()
    def command(config: ConfigFile = None, run_config: RunConfigFile = None, assignments: Assignments = None) -> None:
        settings = read_stage_config("qat", QatConfig, config, run_config, assignments)
        typer.echo(f"{settings.steps} {settings.batch} {settings.seed}")

    environment = {"ZSQ_RUN_CONFIG": str(run_file), "ZSQ_SET": "qat.batch=2  seed=5"}
    assert CliRunner().invoke(app, [], env=environment).stdout == "7 2 5\n"
    assert CliRunner().invoke(app, [], env={"ZSQ_RUN_CONFIG": str(run_file), "ZSQ_SET": ""}).stdout == "7 8 3\n"
