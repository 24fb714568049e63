"""Stages as processes that can be killed, starved and refused, and what an undisturbed run makes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stages.storage import file_digest

SYNTH: dict[str, Any] = {
    "image_size": 64, "images": 6, "shard_size": 1, "labels.source": "random", "inversion.iterations": 4,
    "inversion.batch": 1, "device": "cpu",
}  # fmt: skip
QAT: dict[str, Any] = {
    "bits.weight_bits": 4, "steps": 12, "batch": 1, "calibration_images": 1, "checkpoint_interval": 2, "targets": [],
    "keep_better": False, "device": "cpu",
}  # fmt: skip


@dataclass
class Outcome:
    """How a stage ended: its exit code (negative: the signal that ended it) and all that it said."""

    code: int
    output: str
    seconds: float

    def line(self, code: int) -> str:
        """The one line with which it failed."""
        assert self.code == code, self.output
        lines = [line for line in self.output.splitlines() if line and not line.startswith("{")]
        assert len(lines) == 1 and lines[0].startswith("zsq "), self.output
        return lines[0]


@dataclass
class Stages:
    """Runs stages in forks of a process that has PyTorch loaded."""

    log: Path
    teacher: Path
    zygote: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        self.zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # threads do not survive a fork
        )  # fmt: skip
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self.zygote.stdout is not None
        return self.zygote.stdout.readline().strip()

    def run(self, job: str, arguments: list[str], *faults: tuple[Any, ...], kill_after: float | None = None) -> Outcome:
        """Run a stage to its end, or to `kill -9` after so many seconds."""
        request = {
            "job": job, "arguments": arguments, "log": str(self.log),
            "faults": [[name, values] for name, *values in faults],
        }  # fmt: skip
        assert self.zygote.stdin is not None
        started = time.monotonic()
        print(json.dumps(request), file=self.zygote.stdin, flush=True)
        process = int(self._answer())
        if kill_after is not None:
            time.sleep(max(0.0, started + kill_after - time.monotonic()))
            os.kill(process, signal.SIGKILL)
        print("wait", file=self.zygote.stdin, flush=True)
        code = int(self._answer())
        return Outcome(code, self.log.read_text(errors="replace"), time.monotonic() - started)

    def synth(
        self, output: Path, *faults: tuple[Any, ...], kill_after: float | None = None, **settings: Any
    ) -> Outcome:
        """The set of `SYNTH`."""
        arguments = ["--output", str(output), *self._sets(SYNTH, settings)]
        return self.run("synth_job", arguments, *faults, kill_after=kill_after)

    def qat(
        self, folder: Path, output: Path, *faults: tuple[Any, ...], kill_after: float | None = None, **settings: Any
    ) -> Outcome:
        """The student of `QAT`, from the set in `folder`."""
        arguments = ["--calibration-set", str(folder), "--output", str(output), *self._sets(QAT, settings)]
        return self.run("qat_job", arguments, *faults, kill_after=kill_after)

    def _sets(self, defaults: dict[str, Any], changed: dict[str, Any]) -> list[str]:
        values = defaults | {"teacher.path": str(self.teacher)}
        values |= {key.replace("__", "."): value for key, value in changed.items()}
        return [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file by name but the manifests, which carry the time."""
    return {
        str(path.relative_to(folder)): file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "student.json")
    }


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run makes, and how long it takes."""

    folder: Path
    seconds: float


@pytest.fixture(scope="session")
def stages(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    running = Stages(tmp_path_factory.mktemp("log") / "log", small_checkpoint)
    yield running
    assert running.zygote.stdin is not None
    running.zygote.stdin.close()
    running.zygote.wait()


@pytest.fixture(scope="session")
def whole_set(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("whole-set")
    outcome = stages.synth(folder)
    assert outcome.code == 0, outcome.output
    return Reference(folder, outcome.seconds)


@pytest.fixture(scope="session")
def whole_student(stages: Stages, whole_set: Reference, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("whole-student")
    outcome = stages.qat(whole_set.folder, folder)
    assert outcome.code == 0, outcome.output
    return Reference(folder, outcome.seconds)
