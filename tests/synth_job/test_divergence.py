"""Inversions that leave the finite numbers: the teacher's loss is made to be none, now and then."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from detectors.ultralytics.yolo import UltralyticsDetector
from schemas.calibration_set import MANIFEST, DivergedBatch
from schemas.errors import ExitCode, InputError
from stages.shards import open_calibration_set
from stages.storage import file_digest
from synth_job.divergence import ATTEMPTS, Attempts, Diverged
from synth_job.inversion import check_finite

Synth = Callable[..., Result]


@pytest.fixture
def fail_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the teacher's detection loss not a number at the given calls (from 0), or at all."""

    def fail(*calls: int) -> None:
        count = iter(range(10**6))

        def task_loss(*arguments: Any) -> torch.Tensor:
            call, loss = next(count), whole(*arguments)
            return loss * math.nan if call in calls or not calls else loss

        monkeypatch.setattr(UltralyticsDetector, "task_loss", task_loss)

    whole = UltralyticsDetector.task_loss
    return fail


def digests(folder: Path) -> list[str]:
    return [file_digest(path) for path in sorted(folder.glob("calib-*.tar"))]


def test_the_images_concerned_are_named_or_all_of_them() -> None:
    images = torch.zeros(3, 3, 4, 4)
    check_finite(images, torch.tensor(1.0), 5)
    with pytest.raises(Diverged) as caught:
        check_finite(images, torch.tensor(math.inf), 5)
    assert (list(caught.value.positions), caught.value.step) == ([0, 1, 2], 5)
    images[1, 2, 0, 0] = math.nan
    with pytest.raises(Diverged) as caught:
        check_finite(images, torch.tensor(math.nan), 5)
    assert list(caught.value.positions) == [1]


def test_attempts_are_numbered_recorded_and_bounded() -> None:
    def work(attempt: int) -> str:
        tried.append(attempt)
        if attempt < failures:
            raise Diverged([1], 7)
        return "images"

    said: list[str] = []
    for failures in (0, 2):
        tried: list[int] = []
        attempts = Attempts(said.append)
        assert attempts.run("inversion", range(8, 12), "the rate", work) == "images"
        assert tried == list(range(failures + 1))
        assert attempts.failed == [
            DivergedBatch(phase="inversion", samples=(9,), step=7, attempt=number) for number in range(failures)
        ]
    assert len(said) == 2 and "inversion of samples 9: not finite by step 7" in said[0]
    failures, tried = ATTEMPTS, []
    with pytest.raises(InputError, match=r"samples 9.*in each of 3 attempts.*Lower the rate"):
        Attempts(said.append).run("inversion", range(8, 12), "the rate", work)
    assert tried == list(range(ATTEMPTS))


def test_a_diverged_inversion_is_made_again_and_recorded_in_the_manifest(
    synth: Synth, finished: Path, tmp_path: Path, fail_at: Callable[..., None]
) -> None:
    for folder in ("one", "again"):
        fail_at(1)  # the first batch's second step
        result = synth(tmp_path / folder, labels__source="random")
        assert result.exit_code == 0, result.output
        assert "inversion of samples 0, 1: not finite by step 3; trying again" in result.stdout
    first, second = open_calibration_set(tmp_path / "one").manifest.shards
    assert first.diverged == (DivergedBatch(phase="inversion", samples=(0, 1), step=3, attempt=0),)
    assert second.diverged == ()
    assert digests(tmp_path / "one") == digests(tmp_path / "again"), "the second attempt's randomness is fixed too"
    mine, whole = digests(tmp_path / "one"), digests(finished)
    assert mine[0] != whole[0] and mine[1] == whole[1], "other batches are those of a run without trouble"


def test_diverged_label_sampling_is_made_again_too(synth: Synth, tmp_path: Path, fail_at: Callable[..., None]) -> None:
    fail_at(0)
    assert synth(tmp_path, labels__source="adaptive").exit_code == 0
    (failed,) = open_calibration_set(tmp_path).manifest.shards[0].diverged
    assert (failed.phase, failed.samples, failed.attempt) == ("label sampling", (0, 1), 0)


def test_what_always_diverges_ends_in_one_line_and_finished_shards_stay(
    synth: Synth, finished: Path, tmp_path: Path, fail_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(*range(3, 100))  # the first shard takes three
    result = synth(tmp_path, labels__source="random")
    assert result.exit_code == ExitCode.BAD_INPUT
    (line,) = result.stderr.strip().splitlines()
    assert "inversion of samples 2, 3: not finite by step 3, in each of 3 attempts" in line
    assert "inversion.learning_rate (now 0.05)" in line
    assert not (tmp_path / MANIFEST).exists()
    monkeypatch.undo()
    assert synth(tmp_path, labels__source="random").exit_code == 0
    assert digests(tmp_path) == digests(finished)


def test_a_batch_too_large_for_the_gpu_is_one_line_that_names_the_setting() -> None:
    def work(attempt: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(InputError, match=r"inversion: 8 images at once do not fit .* lower inversion\.batch"):
        Attempts(print).run("inversion", range(8), "nothing", work)
