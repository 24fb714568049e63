from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from schemas.errors import ExitCode

Synth = Callable[..., Result]
LARGE = {"image_size": 288, "labels__source": "random", "inversion__iterations": 1, "images": 2}
"""Seen in views of up to 346 px; memory is asked about from 320."""


def test_a_batch_that_cannot_fit_is_refused_in_one_line_before_anything_is_made(
    synth: Synth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.memory.most_memory", lambda *_: 10**8)
    result = synth(tmp_path / "set", **LARGE)
    assert result.exit_code == ExitCode.BAD_INPUT
    (line,) = result.stderr.strip().splitlines()
    assert "inversion.batch: 2 images at once, seen in views of up to 346 x 346 pixels, take at least" in line
    assert not list((tmp_path / "set").glob("*.tar"))


def test_a_batch_that_may_not_fit_is_made_after_a_word_and_has_the_same_bytes(
    synth: Synth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert synth(tmp_path / "quiet", **LARGE).exit_code == 0
    monkeypatch.setattr("stages.memory.free_memory", lambda *_: 0)
    result = synth(tmp_path / "set", **LARGE)
    assert result.exit_code == 0 and "of which 0.0 GB are free; if the stage is killed" in result.stdout
    (one,), (other,) = ((tmp_path / name).glob("*.tar") for name in ("quiet", "set"))
    assert one.read_bytes() == other.read_bytes()


def test_small_images_are_made_without_asking(synth: Synth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.memory.most_memory", lambda *_: 1)
    assert synth(tmp_path / "set").exit_code == 0
