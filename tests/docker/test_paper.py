"""A row of the paper's table, in containers."""

import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import ExitCode
from schemas.evaluation import EvalReport
from tests.docker.conftest import ROOT, SMALLEST

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


def start(work: Path) -> "subprocess.Popen[str]":
    settings = SMALLEST | {"synth.held_back": 2, "synth.labels.iterations": 40}
    sizes = {"images": settings.pop("synth.images"), "size": settings.pop("image_size"), "steps": 2}
    settings.pop("qat.steps")
    options = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    options += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "benchmarks.paper", "embedded:w4a8", "--executor", "docker", "--work", str(work)]
    return subprocess.Popen([*command, *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_row_is_made_in_containers_and_goes_on_after_a_stop(images: None, tmp_path: Path) -> None:
    stopped = start(tmp_path / "work")
    assert stopped.stdout is not None
    assert any("shard 1 of 2" in line for line in stopped.stdout)
    stopped.terminate()
    _, errors = stopped.communicate()
    assert stopped.returncode == ExitCode.STOPPED, errors

    again = start(tmp_path / "work")
    _, errors = again.communicate()
    assert again.returncode == ExitCode.DONE, errors
    report = EvalReport.read(tmp_path / "work" / "embedded" / "w4a8" / "eval" / "report.json")
    line = (tmp_path / "work" / "table.md").read_text().splitlines()
    full_precision = f"{100 * report.models[0].precision.map50_95:.1f}"
    assert any(f"| embedded | W4A8 | not in the paper |  |  | {full_precision} |" in each for each in line)
