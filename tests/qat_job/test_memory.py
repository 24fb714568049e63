from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from detectors.detections import Detections
from detectors.protocol import Detector
from qat_job.memory import check_memory
from qat_job.team import Team
from qat_job.training import Training
from schemas.errors import ConfigError, ExitCode
from schemas.image_size import ImageSize
from schemas.qat_config import QatConfig
from stages.ranks import Rank
from stages.stage import Stage

LARGE = ImageSize(480, 512)
CPU = torch.device("cpu")


def check(teacher: Detector, size: ImageSize = LARGE, team: Team | None = None, **settings: Any) -> None:
    check_memory(QatConfig(**settings), teacher, size, 32, team or Team(Rank(), CPU), Stage("qat"))


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a GB beside what the process has."""
    monkeypatch.setattr("stages.memory.own_memory", lambda *_: 0)
    monkeypatch.setattr("stages.memory.most_memory", lambda *_: 10**8)


def test_the_setting_that_does_not_fit_is_named_with_a_number_that_does(teacher: Detector, little_memory: None) -> None:
    with pytest.raises(
        ConfigError, match=r"^correction_images: 32 images of 480 x 512 pixels .* set correction_images to"
    ):
        check(teacher)
    with pytest.raises(
        ConfigError, match=r"^batch: 8 images of 480 x 512 pixels a step take .* set batch to \d or less"
    ):
        check(teacher, correction_images=0)


def test_what_is_not_computed_is_not_asked_about(teacher: Detector, little_memory: None) -> None:
    check(teacher, correction_images=0, ptq_only=True)
    check(teacher, ImageSize.square(320))


def test_ranks_share_a_batch_and_its_memory(teacher: Detector, little_memory: None) -> None:
    check(teacher, correction_images=0, team=Team(Rank(0, 8), CPU))


def test_to_ask_changes_neither_teacher_nor_student(
    qat: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert qat(tmp_path / "quiet").exit_code == 0
    monkeypatch.setattr("qat_job.memory.worth_asking", lambda *_: True)
    monkeypatch.setattr("stages.memory.free_memory", lambda *_: 0)
    result = qat(tmp_path / "asked")
    assert result.exit_code == 0
    assert "pixels that outputs are corrected on take about" in result.stdout
    assert "a step take about" in result.stdout
    (one,), (other,) = ((tmp_path / name).glob("*.safetensors") for name in ("quiet", "asked"))
    assert one.read_bytes() == other.read_bytes()


def test_a_step_that_runs_out_of_memory_is_a_line_that_names_the_batch(
    qat: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spent(self: Training, batch: torch.Tensor, labels: list[Detections]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Training, "step", spent)
    result = qat(tmp_path)
    assert result.exit_code == ExitCode.BAD_INPUT
    (line,) = result.stderr.strip().splitlines()
    assert line.endswith("training: 2 images a step do not fit into the GPU's memory; lower batch")
