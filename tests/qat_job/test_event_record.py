import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from schemas.student import StudentManifest

event_accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="needs the extra tensorboard"
)


def test_a_training_leaves_its_loss_rate_and_step_sizes(qat: Callable[..., Result], tmp_path: Path) -> None:
    result = qat(tmp_path, steps=3, tensorboard=True)
    assert result.exit_code == 0, result.output

    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    training = StudentManifest.read(tmp_path / "student.json").training
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(training.losses)
    assert events.Scalars("learning_rate")[-1].value == pytest.approx(0, abs=1e-9), "the cosine has ended"
    assert len([tag for tag in events.Tags()["scalars"] if tag.startswith("step_size.weight/")]) == 38


def test_event_files_change_neither_the_student_nor_its_key(qat: Callable[..., Result], tmp_path: Path) -> None:
    assert qat(tmp_path / "with", tensorboard=True).exit_code == 0
    assert qat(tmp_path / "without").exit_code == 0

    recorded, plain = (StudentManifest.read(tmp_path / name / "student.json") for name in ("with", "without"))
    assert recorded.weights_sha256 == plain.weights_sha256
    assert recorded.provenance.key == plain.provenance.key
    assert not (tmp_path / "without" / "tensorboard").exists()


def test_a_missing_package_is_one_line_before_anything_is_loaded(
    qat: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = qat(tmp_path, tensorboard=True)

    assert result.exit_code == 2
    assert "pip install 'tensorboard>=2.19'" in result.stderr and result.stderr.count("\n") == 1
