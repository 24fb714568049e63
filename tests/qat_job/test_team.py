"""Two processes on half a batch each train the student that one trains on the whole."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import Result

from qat_job.distillation import feature_variances
from qat_job.team import Team
from schemas.errors import ConfigError
from schemas.qat_config import BitPolicy
from schemas.student import MANIFEST, WEIGHTS, StudentManifest
from stages.ranks import Rank
from tests.qat_job.conftest import TINY

# The family's task loss divides by the labels of the batch it is given, so that halves differ from the whole.
# Compensated rounding starts from other integers with another number of threads, since it passes rounding noise on.
SETTINGS: dict[str, Any] = TINY | {
    "steps": 2,
    "batch": 4,
    "weights.task": 0.0,
    "learning_rate": 1e-4,
    "compensated_rounding": False,
}


@pytest.fixture
def settings(small_checkpoint: Path) -> dict[str, Any]:
    """Those of every rank."""
    return SETTINGS | {"teacher.path": str(small_checkpoint)}


def start(calibration_set: Path, output: Path, settings: dict[str, Any], count: int = 2) -> list[subprocess.Popen[str]]:
    """All ranks of a training, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pairs = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    command = [sys.executable, "-m", "qat_job", "--calibration-set", str(calibration_set), "--output", str(output)]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [*command, *pairs],
            env=os.environ | address | {"WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for rank in range(count)
    ]


def test_two_ranks_train_what_one_does(
    calibration_set: Path, qat: Callable[..., Result], settings: dict[str, Any], tmp_path: Path
) -> None:
    ranks = start(calibration_set, tmp_path / "two", settings)
    alone = qat(tmp_path / "one", **{key.replace(".", "__"): value for key, value in settings.items()})
    assert alone.exit_code == 0, alone.output
    outputs = [rank.communicate(timeout=200)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs

    one, two = (StudentManifest.read(tmp_path / name / MANIFEST) for name in ("one", "two"))
    assert two.provenance.key == one.provenance.key
    assert two.training.losses[0] == pytest.approx(one.training.losses[0], rel=1e-4)
    # Adam's first steps are as long where a gradient is all rounding noise, and 4 bits turn that into whole steps.
    assert two.training.losses == pytest.approx(one.training.losses, rel=0.02)
    before, mine, theirs = (load_file(tmp_path / name / WEIGHTS) for name in ("one/ptq", "two", "one"))

    def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
        return float(sum((one[name] - tensor).square().sum() for name, tensor in other.items()) ** 0.5)

    assert distance(mine, theirs) < 0.25 * distance(before, theirs), "far nearer to it than training moved"


def test_a_batch_that_cannot_be_shared_is_refused(qat: Callable[..., Result], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch: got 8, takes a multiple of the 3 processes"):
        Team(Rank(1, 3), torch.device("cpu")).share(8)
    assert Team(Rank(1, 3), torch.device("cpu")).share(9) == slice(3, 6)


def test_one_process_exchanges_nothing() -> None:
    team = Team(Rank(), torch.device("cpu"))
    tensor = torch.rand(3)
    same = tensor.clone()
    team.average([tensor])
    team.take_over([tensor])
    team.wait()
    assert torch.equal(tensor, same)
    assert team.leads and team.share(8) == slice(0, 8)
    assert team.agree(BitPolicy, BitPolicy(weight_bits=4)) == BitPolicy(weight_bits=4)
    assert team.any(True) and not team.any(False)


def test_variances_of_features_are_those_of_the_whole() -> None:
    features = [3 + torch.randn(2, 5, 4, 4), torch.zeros(2, 3)]
    torch.testing.assert_close(feature_variances(features)[0], features[0].var())
    assert float(feature_variances(features)[1]) > 0


def test_several_ranks_without_an_address_are_one_clear_line(
    calibration_set: Path, qat: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    result = qat(tmp_path / "student", batch=4)
    assert result.exit_code == 2
    assert "started by torchrun" in result.output


@pytest.mark.slow
def test_sigterm_to_one_rank_stops_all_after_a_checkpoint_and_they_go_on_together(
    calibration_set: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    # Progress is told every five seconds, and training must go on well after the first time.
    settings |= {"steps": 300, "checkpoint_interval": 1000}
    ranks = start(calibration_set, tmp_path, settings)
    assert ranks[1].stdout is not None
    for line in ranks[1].stdout:
        if '"training"' in line:
            break
    ranks[1].send_signal(signal.SIGTERM)
    outputs = [rank.communicate(timeout=200)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [143, 143], outputs
    (record,) = (tmp_path / "checkpoints").glob("step-*.json")

    ranks = start(calibration_set, tmp_path, settings)
    outputs = [rank.communicate(timeout=200)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert f"going on after step {int(record.stem.removeprefix('step-'))} of 300" in outputs[0]
    assert StudentManifest.read(tmp_path / MANIFEST).training.steps == 300


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_with_one_line(
    calibration_set: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    ranks = start(calibration_set, tmp_path, settings | {"steps": 1000})
    assert ranks[1].stdout is not None
    for line in ranks[1].stdout:
        if '"training"' in line:
            break
    ranks[1].kill()
    output = ranks[0].communicate(timeout=200)[0]
    assert ranks[0].returncode == 2
    assert "another rank of this training ended" in output
    assert "Traceback" not in output
