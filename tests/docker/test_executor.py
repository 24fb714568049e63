"""`zsq run --executor docker` on a real engine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from schemas.evaluation import EvalReport
from tests.docker.conftest import assignments

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


def start(storage: Path, **changes: object) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ZSQ_")}
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "run", "--executor", "docker", "--storage", str(storage)],
        env=environment | {"ZSQ_SET": assignments(**changes)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def containers() -> list[str]:
    listed = subprocess.run(
        ["docker", "ps", "--all", "--quiet", "--filter", "name=^zsq-(synth|qat|eval)-[0-9a-f]{12}$"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return listed.stdout.split()


def test_a_run_in_containers_leaves_what_a_local_one_does_and_no_container(images: None, tmp_path: Path) -> None:
    first = start(tmp_path / "run")
    output, errors = first.communicate()
    assert first.returncode == 0, errors
    assert '"task": "training"' in output, "progress streams"
    report = EvalReport.read(tmp_path / "run" / "eval" / "report.json")
    assert report.models[0].name == "full precision"
    assert containers() == []

    again, _ = start(tmp_path / "run").communicate()
    assert again.count("up to date") == 3


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_stage_cleanly_and_removes_its_container(
    images: None, tmp_path: Path, signum: int, code: int
) -> None:
    running = start(tmp_path / "run", synth__inversion__iterations=100_000)
    assert running.stdout is not None
    assert any("shard 1 of 2" in line for line in running.stdout)
    time.sleep(1)  # into the work
    running.send_signal(signum)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == code, errors
    assert "stopped during synth; run the same command to go on" in errors
    assert containers() == []


def test_a_bad_teacher_is_refused_before_a_container_starts(images: None, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.pt"
    teacher.write_bytes(b"not a checkpoint")
    failing = start(tmp_path / "run", teacher__path=teacher)
    output, errors = failing.communicate()
    assert failing.returncode == 2
    assert f"zsq run: teacher {teacher}: not an Ultralytics YOLO checkpoint" in errors
    assert "synth" not in output
