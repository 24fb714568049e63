"""A folder is whole where its manifest lies, and only what was asked for counts as finished."""

from pathlib import Path

import pytest

from schemas.base import Document
from schemas.errors import ConfigError
from schemas.provenance import Provenance
from stages.output import Job, Output
from stages.ranks import Rank
from stages.stage import Stage


class Made(Document):
    provenance: Provenance
    files: int = 1


def output(folder: Path, seed: int = 1, *, overwrite: bool = False) -> Output[Made]:
    return Output(folder / "made.json", Made, Provenance.of("synth", {"seed": seed}, {"teacher": "a"}), overwrite)


def test_a_folder_is_finished_between_publishing_and_withdrawing(tmp_path: Path) -> None:
    mine = output(tmp_path)
    assert mine.finished() is None
    document = Made(provenance=mine.wanted)
    mine.publish(document)
    assert mine.finished() == document
    assert output(tmp_path, overwrite=True).finished() == document, "leave to overwrite is no order to"
    mine.withdraw()
    assert mine.finished() is None and mine.present() is None


def test_another_output_is_refused_naming_the_difference_unless_overwriting(tmp_path: Path) -> None:
    mine = output(tmp_path)
    mine.publish(Made(provenance=mine.wanted))
    with pytest.raises(ConfigError, match=r"seed: 1 → 2.*--overwrite") as caught:
        output(tmp_path, seed=2).finished()
    assert str(tmp_path) in str(caught.value)
    other = output(tmp_path, seed=2, overwrite=True)
    assert other.finished() is None
    assert other.present() is not None


def test_a_claim_is_wanted_where_the_folder_is_not_finished_or_not_whole(tmp_path: Path) -> None:
    stage, mine = Stage("synth"), output(tmp_path)
    with mine.claim(stage, Rank()) as wanted:
        assert wanted
        mine.publish(Made(provenance=mine.wanted))
    with mine.claim(stage, Rank()) as wanted:
        assert not wanted
    with mine.claim(stage, Rank(), whole=lambda made: made.files > 1) as wanted:
        assert wanted
    assert Job(stage, mine).rank == Rank()
