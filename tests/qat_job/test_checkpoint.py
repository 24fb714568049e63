"""A training that stops and goes on is the training that never stopped."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from qat_job import training
from qat_job.checkpoint import CHECKPOINTS
from schemas.errors import ExitCode
from schemas.student import MANIFEST, PTQ_FOLDER, WEIGHTS, StudentManifest
from stages.storage import file_digest

Qat = Callable[..., Result]
SETTINGS: dict[str, Any] = {"steps": 7, "batch": 3, "checkpoint_interval": 2}


@pytest.fixture(scope="module")
def uninterrupted(qat: Qat, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    result = qat(folder, **SETTINGS)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Does something while the loss of a step (from 1) is computed."""

    def install(step: int, action: Callable[[], None]) -> None:
        steps = iter(range(1, 10**6))

        def loss(*arguments: Any) -> torch.Tensor:
            if next(steps) == step:
                action()
            return whole(*arguments)

        monkeypatch.setattr(training, "training_loss", loss)

    whole = training.training_loss
    return install


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def crash() -> None:
    raise MemoryError("as if the process ended here")


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / CHECKPOINTS).glob("*"))


def assert_same_student(folder: Path, other: Path) -> None:
    for below in ("", PTQ_FOLDER):
        assert file_digest(folder / below / WEIGHTS) == file_digest(other / below / WEIGHTS)
        mine, theirs = (StudentManifest.read(where / below / MANIFEST) for where in (folder, other))
        assert mine.training.losses == theirs.training.losses
        assert mine.training.last_loss == theirs.training.last_loss
    assert sorted(path.name for path in folder.iterdir()) == sorted([MANIFEST, WEIGHTS, PTQ_FOLDER])


def one_line(result: Result, code: ExitCode) -> str:
    assert result.exit_code == code, result.output
    (line,) = result.stderr.strip().splitlines()
    return str(line)


@pytest.mark.parametrize("step", [1, 6, 7])
def test_sigterm_saves_the_step_at_work_and_the_next_run_goes_on_there(
    qat: Qat, tmp_path: Path, uninterrupted: Path, at_step: Any, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    at_step(step, terminate)
    result = qat(tmp_path, **SETTINGS)
    if step == 7:  # the last one: there is nothing left to stop
        assert result.exit_code == 0
    else:
        one_line(result, ExitCode.STOPPED)
        assert f"step-{step:08d}.json" in checkpoints(tmp_path)
        monkeypatch.undo()
        resumed = qat(tmp_path, **SETTINGS)
        assert resumed.exit_code == 0, resumed.output
        assert f"going on after step {step} of 7" in resumed.stdout
        assert "calibrating" not in resumed.stdout
    assert_same_student(tmp_path, uninterrupted)


def test_a_crash_costs_the_steps_since_the_last_checkpoint(
    qat: Qat, tmp_path: Path, uninterrupted: Path, at_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(6, crash)
    assert qat(tmp_path, **SETTINGS).exit_code == ExitCode.BUG
    assert checkpoints(tmp_path) == [f"step-{k:08d}.{kind}" for k in (2, 4) for kind in ("json", "safetensors")]
    monkeypatch.undo()
    assert "going on after step 4 of 7" in qat(tmp_path, **SETTINGS).stdout
    assert_same_student(tmp_path, uninterrupted)


@pytest.mark.parametrize("kept", [1, 3])
def test_the_latest_checkpoints_stay(qat: Qat, tmp_path: Path, at_step: Any, kept: int) -> None:
    at_step(7, crash)
    qat(tmp_path, **SETTINGS | {"checkpoint_interval": 1, "checkpoints_kept": kept})
    steps = range(7 - kept, 7)
    assert checkpoints(tmp_path) == [f"step-{k:08d}.{kind}" for k in steps for kind in ("json", "safetensors")]


@pytest.mark.parametrize("damaged", ["json", "safetensors"])
def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(
    qat: Qat, tmp_path: Path, uninterrupted: Path, at_step: Any, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    at_step(6, crash)
    qat(tmp_path, **SETTINGS)
    monkeypatch.undo()
    path = tmp_path / CHECKPOINTS / f"step-{4:08d}.{damaged}"
    path.write_bytes(path.read_bytes()[:-100])
    result = qat(tmp_path, **SETTINGS)
    assert "passing over a damaged checkpoint" in result.stdout and "going on after step 2" in result.stdout
    assert_same_student(tmp_path, uninterrupted)


def test_checkpoints_after_damaged_ones_stay(qat: Qat, tmp_path: Path, at_step: Any) -> None:
    settings = SETTINGS | {"checkpoints_kept": 1}
    at_step(6, terminate)
    qat(tmp_path, **settings)
    (late,) = (tmp_path / CHECKPOINTS).glob("*.safetensors")
    late.write_bytes(b"damaged")
    at_step(3, terminate)
    qat(tmp_path, **settings)
    assert checkpoints(tmp_path) == ["step-00000003.json", "step-00000003.safetensors"]


def test_without_any_whole_checkpoint_it_starts_again(
    qat: Qat, tmp_path: Path, uninterrupted: Path, at_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(4, crash)
    qat(tmp_path, **SETTINGS)
    monkeypatch.undo()
    for path in (tmp_path / CHECKPOINTS).glob("*.safetensors"):
        path.write_bytes(b"")
    assert "calibrating" in qat(tmp_path, **SETTINGS).stdout
    assert_same_student(tmp_path, uninterrupted)


def test_an_unfinished_training_with_other_settings_is_refused_by_name_or_overwritten(
    qat: Qat, tmp_path: Path, uninterrupted: Path, at_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(4, crash)
    qat(tmp_path, **SETTINGS | {"seed": 5})
    monkeypatch.undo()
    before = checkpoints(tmp_path)
    line = one_line(qat(tmp_path, **SETTINGS), ExitCode.BAD_INPUT)
    assert "unfinished training with other settings (seed: 5 → 0)" in line and "--overwrite" in line
    assert checkpoints(tmp_path) == before != []
    assert qat(tmp_path, "--overwrite", **SETTINGS).exit_code == 0
    assert_same_student(tmp_path, uninterrupted)


def test_how_often_checkpoints_are_written_does_not_decide_the_student(
    qat: Qat, tmp_path: Path, uninterrupted: Path
) -> None:
    shutil.copytree(uninterrupted, tmp_path / "student")
    assert "up to date" in qat(tmp_path / "student", **SETTINGS | {"checkpoint_interval": 5}).stdout


def test_a_training_that_diverges_leaves_its_last_good_checkpoint(
    qat: Qat, tmp_path: Path, at_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_finite(*_: Any) -> torch.Tensor:
        return whole(*_) * float("nan")

    whole = training.training_loss
    at_step(5, lambda: monkeypatch.setattr(training, "training_loss", nothing_finite))
    line = one_line(qat(tmp_path, **SETTINGS | {"steps": 20}), ExitCode.BAD_INPUT)
    assert "training diverged" in line and "--overwrite" in line
    assert checkpoints(tmp_path)[-1] == f"step-{4:08d}.safetensors"
    assert not (tmp_path / MANIFEST).exists()


def test_the_paper_policy_resumes_as_well(
    qat: Qat, tmp_path: Path, at_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS | {"bits__policy": "paper", "steps": 3}
    assert qat(tmp_path / "whole", **settings).exit_code == 0
    at_step(2, terminate)
    one_line(qat(tmp_path / "student", **settings), ExitCode.STOPPED)
    monkeypatch.undo()
    assert qat(tmp_path / "student", **settings).exit_code == 0
    assert_same_student(tmp_path / "student", tmp_path / "whole")
