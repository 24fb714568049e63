"""What a step takes can be counted for every detector of every family, and small images say what large ones take."""

import re
from pathlib import Path

import pytest
import torch

from qat_job.memory import check_memory as check_qat
from qat_job.team import Team
from schemas.image_size import ImageSize
from schemas.qat_config import QatConfig
from schemas.synth_config import SynthConfig
from stages.ranks import Rank
from stages.stage import Stage
from synth_job.inversion import Inversion
from synth_job.memory import check_memory as check_synth
from tests.conformance.cases import CASES, Case
from tests.conformance.checks import Subject


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=() if case.quick else pytest.mark.slow) for case in CASES],
)
def test_every_need_is_counted(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stages.memory.most_memory", lambda *_: None)
    monkeypatch.setattr("stages.memory.free_memory", lambda *_: 0)
    teacher = Subject(case, tmp_path).teacher
    size, stage = ImageSize.square(1280), Stage("test")

    check_synth(SynthConfig(), teacher, Inversion(teacher), size, stage)
    check_qat(QatConfig(), teacher, size, 32, Team(Rank(), torch.device("cpu")), stage)

    # A fixed number of regions may take most of a small image's forward pass: then nothing is said of correction.
    inversion, *_, training = capsys.readouterr().out.splitlines()
    for line, what in ((inversion, "8 images at once"), (training, "8 images of 1280 x 1280 pixels a step")):
        said = re.search(f'"{what}.* take about ([0-9.]+) GB of memory, of which 0.0 GB are free', line)
        assert said and float(said[1]) > 1, line
