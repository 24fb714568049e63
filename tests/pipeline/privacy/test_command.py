"""`zsq set privacy`: what it prints, writes and records, and what it refuses."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detectors.registry import load_teacher
from pipeline.privacy.features import chosen_measures
from pipeline.sets.verify import verify_set
from schemas.calibration_set import CalibrationSetManifest
from schemas.errors import ConfigError
from schemas.privacy import PrivacyReport, Verdict
from schemas.teacher import EMBEDDED, TeacherSource
from stages.pixels import Pixels
from stages.stage import Stage
from tests.pipeline.privacy.conftest import SIDE, photograph, unrelated
from tests.pipeline.sets.conftest import zsq_set

SetOf = Callable[[Path, Sequence[Pixels]], CalibrationSetManifest]


@pytest.fixture
def smuggled(set_of: SetOf, tmp_path: Path) -> Path:
    """A set whose second image is a photograph."""
    set_of(tmp_path / "set", [unrelated(0), np.asarray(photograph(4).resize((SIDE, SIDE)))])
    return tmp_path / "set"


def test_copies_are_shown_written_and_recorded(smuggled: Path, photographs: Path, tmp_path: Path) -> None:
    shard, before = (
        (smuggled / "calib-000000.tar").read_bytes(),
        CalibrationSetManifest.read(smuggled / "manifest.json"),
    )
    result = zsq_set("privacy", smuggled, "--against", photographs, "--output", tmp_path / "pairs", "--record")
    assert result.exit_code == 3, result.output
    assert "1 image of 2 may be copies of real ones (at 1)" in result.stderr and "\n" not in result.stderr.strip()
    report = PrivacyReport.read(tmp_path / "pairs" / "privacy.json")
    assert [each.measure for each in report.samples[1].nearest] == ["pixels", "features"]
    assert report.samples[1].nearest[0].image == "004.png"
    assert Image.open(tmp_path / "pairs" / "nearest.png").width > 600
    after = verify_set(smuggled, Stage("set verify"))
    assert after.privacy == report.record and after.privacy.verdict is Verdict.COPIES
    assert (after.digest, (smuggled / "calib-000000.tar").read_bytes()) == (before.digest, shard)
    assert after.model_copy(update={"privacy": None}) == before
    assert "004.png" not in (smuggled / "manifest.json").read_text(), "names of real images stay with their owner"
    assert "looks like copies: 1 of 2" in zsq_set("inspect", smuggled).output


def test_nothing_is_recorded_unless_asked(smuggled: Path, photographs: Path) -> None:
    before = (smuggled / "manifest.json").read_bytes()
    assert zsq_set("privacy", smuggled, "--against", photographs).exit_code == 3
    assert (smuggled / "manifest.json").read_bytes() == before
    assert "privacy" not in json.loads(before), "sets without a record are read by releases that know of none"


def test_results_do_not_go_where_they_would_leave_with_the_set(smuggled: Path, photographs: Path) -> None:
    for output in (smuggled / "pairs", photographs):
        result = zsq_set("privacy", smuggled, "--against", photographs, "--output", output)
        assert result.exit_code == 2 and "choose another one" in result.stderr
    assert not (smuggled / "pairs").exists()


def test_the_teacher_is_not_its_own_witness() -> None:
    import torch

    teacher = load_teacher(TeacherSource(path=EMBEDDED), torch.device("cpu")).identity
    stage = Stage("set privacy")
    assert [measure.name for measure in chosen_measures(None, teacher, stage)] == ["pixels"]
    with pytest.raises(ConfigError, match="is the teacher of the set"):
        chosen_measures(EMBEDDED, teacher, stage)
