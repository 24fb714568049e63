"""Commands that write a set hold its folder, as stages do; merge and subset share what writes it."""

from pathlib import Path

import pytest

from schemas.calibration_set import MANIFEST
from stages.lock import folder_lock
from stages.ranks import Rank
from tests.pipeline.sets.conftest import zsq_set


@pytest.mark.parametrize("command", ["pull", "subset"])
def test_a_folder_that_somebody_writes_is_refused_by_name_and_left_alone(
    command: str, set_folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    arguments = {
        "pull": (set_folder, target),
        "subset": (set_folder, "--count", 2, "--output", target),
    }[command]
    with folder_lock(target, "synth", "another run", Rank()):
        refused = zsq_set(command, *arguments)
        assert refused.exit_code == 2
        assert "is being written by synth on" in refused.stderr
        assert not (target / MANIFEST).exists() and not list(target.glob("calib-*"))
    assert zsq_set(command, *arguments).exit_code == 0
    assert (target / MANIFEST).exists() and not list(target.glob(".zsq-*"))
