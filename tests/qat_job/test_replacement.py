"""A student that replaces another: the old one stays until the new one is whole."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from qat_job import job, replacement
from qat_job.replacement import REPLACEMENT, finish_move, move_in
from schemas.errors import ExitCode
from schemas.sensitivity import SENSITIVITY
from schemas.student import MANIFEST, PTQ_FOLDER, WEIGHTS, StudentManifest
from stages.storage import file_digest

Qat = Callable[..., Result]


@pytest.fixture
def old(trained: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "student"
    shutil.copytree(trained, folder)
    return folder


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and REPLACEMENT not in path.parts)
    return {str(path.relative_to(folder)): file_digest(path) for path in files}


def test_a_stopped_replacement_leaves_the_old_student_and_goes_on(
    qat: Qat, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_a_little(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(job, "train", train)
        os.kill(os.getpid(), signal.SIGTERM)
        return train(*arguments, **options)

    train, before = job.train, content(old)
    monkeypatch.setattr(job, "train", train_a_little)
    assert qat(old, "--overwrite", steps=4, seed=3).exit_code == ExitCode.STOPPED
    assert content(old) == before, "not a file of the old student is touched"
    assert (old / REPLACEMENT / PTQ_FOLDER / MANIFEST).exists(), "calibrated, not trained"

    result = qat(old, "--overwrite", steps=4, seed=3)
    assert result.exit_code == 0, result.output
    assert StudentManifest.read(old / MANIFEST).training.steps == 4
    assert not (old / REPLACEMENT).exists()
    assert REPLACEMENT not in result.stdout.splitlines()[-1], "the last line names the student's folder"
    assert "up to date" in qat(old, steps=4, seed=3).stdout


def test_a_replacement_that_fails_leaves_the_old_student(qat: Qat, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    before = content(old)
    monkeypatch.setattr(job, "calibrate_student", fail)
    assert qat(old, "--overwrite", steps=4, seed=3).exit_code == ExitCode.BUG
    assert content(old) == before


@pytest.mark.parametrize("killed_at", range(4))
def test_a_move_that_was_killed_is_finished(
    trained: Path, old: Path, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = old / REPLACEMENT
    shutil.copytree(trained, new)
    for folder in (old, old / PTQ_FOLDER):
        (folder / WEIGHTS).write_bytes(b"of the old student")
    (old / SENSITIVITY).write_text("of the old student")
    wanted = content(trained)
    assert len(wanted) == 4 and content(old) != wanted
    moved: list[Path] = []

    def replace(self: Path, target: Path) -> Path:
        if len(moved) == killed_at:
            raise KeyboardInterrupt
        moved.append(target)
        os.replace(self, target)
        return target

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(replacement.Path, "replace", replace)
        move_in(new)
    assert not (old / MANIFEST).exists(), "what lies there is no student now"
    finish_move(old)
    assert content(old) == wanted and not new.exists()
    assert (old / WEIGHTS).exists()
