"""How threads wait and how many there are, before PyTorch loads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.threads import SPIN_COUNT, affine_cores, configure_threads, core_quota, usable_cores


def test_waiting_threads_spin_shortly() -> None:
    environment: dict[str, str] = {}
    configure_threads(environment)
    assert environment["GOMP_SPINCOUNT"] == str(SPIN_COUNT)


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_user_chose_stays(name: str) -> None:
    environment = {name: "mine"}
    configure_threads(environment)
    assert environment == {name: "mine"}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_a_quota_is_read_from_either_version_of_control_groups(
    files: dict[str, str], cores: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert core_quota(tmp_path) == cores


def test_usable_cores_follow_the_quota_and_are_at_least_one(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("20000 100000\n")
    assert usable_cores(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == affine_cores()


@pytest.mark.parametrize("module", ["synth_job.__main__", "qat_job.__main__", "eval_job.__main__", "pipeline.cli"])
def test_every_entry_point_chooses_before_torch_loads(module: str) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    code = f"import os, sys, {module}; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == [str(SPIN_COUNT), "False"]
