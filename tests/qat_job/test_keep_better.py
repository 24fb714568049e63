"""Training never ends below calibration alone: where it would, the calibrated student is kept, and that is said."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from typer.testing import Result

from quantization.student import load_student
from schemas.calibration_set import HELD_BACK_FOLDER, MANIFEST
from schemas.errors import ExitCode
from schemas.student import MANIFEST as STUDENT_MANIFEST
from schemas.student import PTQ_FOLDER, StudentManifest, TrainingMethod

Qat = Callable[..., Result]
RUINOUS = {"learning_rate": 0.02, "steps": 3}


def test_a_training_that_ruins_the_student_gives_the_calibrated_one(qat: Qat, tmp_path: Path) -> None:
    result = qat(tmp_path / "trained", keep_better=True, **RUINOUS)
    assert result.exit_code == 0, result.output
    assert "the calibrated student is kept" in result.stdout
    assert qat(tmp_path / "calibrated", ptq_only=True).exit_code == 0
    manifest = StudentManifest.read(tmp_path / "trained" / STUDENT_MANIFEST)
    assert (manifest.method, manifest.training.steps) == (TrainingMethod.PTQ, 3)
    found = manifest.training.comparison
    assert found is not None and found.calibrated < found.trained and (found.images, found.held_back) == (4, False)
    assert not (tmp_path / "trained" / PTQ_FOLDER).exists(), "evaluation would show it twice"
    kept, alone = (load_student(tmp_path / name, torch.device("cpu"))[0] for name in ("trained", "calibrated"))
    expected = alone.network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in kept.network.state_dict().items())
    assert "up to date" in qat(tmp_path / "trained", keep_better=True, **RUINOUS).stdout


def test_a_training_that_helps_is_kept_beside_the_calibrated_student(qat: Qat, tmp_path: Path) -> None:
    result = qat(tmp_path, keep_better=True, steps=20, bits__weight_bits=3, correction_images=0)
    assert result.exit_code == 0, result.output
    manifest = StudentManifest.read(tmp_path / STUDENT_MANIFEST)
    found = manifest.training.comparison
    assert found is not None and found.trained < found.calibrated
    assert manifest.method is TrainingMethod.QAT
    assert StudentManifest.read(tmp_path / PTQ_FOLDER / STUDENT_MANIFEST).training.comparison is None


def test_images_that_were_held_back_are_the_judge(qat: Qat, calibration_set: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(calibration_set, folder)
    shutil.copytree(calibration_set, folder / HELD_BACK_FOLDER)
    assert qat(tmp_path / "student", folder=folder, keep_better=True, **RUINOUS).exit_code == 0
    found = StudentManifest.read(tmp_path / "student" / STUDENT_MANIFEST).training.comparison
    assert found is not None and found.held_back
    shard = next((folder / HELD_BACK_FOLDER).glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-512] + b"x" * 512)
    assert (folder / HELD_BACK_FOLDER / MANIFEST).exists()
    result = qat(tmp_path / "other", folder=folder, keep_better=True, **RUINOUS)
    assert result.exit_code == ExitCode.UNVERIFIED
