"""`kill -9` anywhere: what is there afterwards verifies, and the resumed run makes what an undisturbed one makes.

Campaign of 20 kills a stage, at random times: `uv run pytest -m slow -s tests/faults/test_kill.py`.
"""

import random
import shutil
import signal
from pathlib import Path

import pytest

from qat_job.checkpoint import CheckpointRecord
from schemas.calibration_set import MANIFEST as SET_MANIFEST
from schemas.calibration_set import ShardRecord
from schemas.student import MANIFEST, PTQ_FOLDER, WEIGHTS, StudentManifest
from stages.shards import open_calibration_set, read_shard, verify_shard
from stages.storage import file_digest
from tests.faults.conftest import Reference, Stages, contents

SEED = 20261124
CAMPAIGN = 20
KILLED = -signal.SIGKILL


def readable_shards(folder: Path) -> int:
    """How many shards a reader would take; every one of them, and the set if it is called whole, must be sound."""
    records = [ShardRecord.read(path) for path in sorted(folder.glob("calib-*.json"))]
    for record in records:
        verify_shard(folder, record)
        read_shard(folder / record.file, record.samples)
    if (folder / SET_MANIFEST).exists():
        open_calibration_set(folder)
    return len(records)


def steps_kept(folder: Path) -> int:
    """The step of the latest checkpoint; every one of them, and the student if there is one, must be sound."""
    for below in (folder, folder / PTQ_FOLDER):
        if (below / MANIFEST).exists():
            assert StudentManifest.read(below / MANIFEST).weights_sha256 == file_digest(below / WEIGHTS)
    records = {path: CheckpointRecord.read(path) for path in folder.glob("checkpoints/step-*.json")}
    for path, record in records.items():
        assert file_digest(path.with_suffix(".safetensors")) == record.sha256
    return max((record.steps for record in records.values()), default=0)


def assert_whole_set(folder: Path, reference: Path) -> None:
    mine, theirs = (open_calibration_set(where).manifest for where in (folder, reference))
    assert (mine.digest, mine.statistics) == (theirs.digest, theirs.statistics)
    assert mine.teacher_agreement == theirs.teacher_agreement
    assert contents(folder) == contents(reference), "no file more, none less, all of the same bytes"


def assert_whole_student(folder: Path, reference: Path) -> None:
    mine, theirs = (StudentManifest.read(where / MANIFEST) for where in (folder, reference))
    assert mine.training.losses == theirs.training.losses
    assert (mine.weights_sha256, mine.training.last_loss) == (theirs.weights_sha256, theirs.training.last_loss)
    assert contents(folder) == contents(reference), "no file more, none less, all of the same bytes"


def kill_synth(stages: Stages, reference: Reference, folder: Path, draw: random.Random) -> tuple[float, int]:
    """One kill and the resumed run; when it was, and how many shards it left."""
    moment, killed = draw.uniform(0, reference.seconds), None
    while killed is None or killed.code == 0:  # this run was quicker than the one that was timed
        shutil.rmtree(folder, ignore_errors=True)
        moment *= 0.9 if killed else 1
        killed = stages.synth(folder, kill_after=moment)
    assert killed.code == KILLED, killed.output
    kept = readable_shards(folder)
    resumed = stages.synth(folder)
    assert resumed.code == 0, resumed.output
    assert_whole_set(folder, reference.folder)
    return moment, kept


def kill_qat(
    stages: Stages, calibration_set: Reference, reference: Reference, folder: Path, draw: random.Random
) -> tuple[float, int]:
    """One kill and the resumed run; when it was, and the steps of its latest checkpoint."""
    moment, killed = draw.uniform(0, reference.seconds), None
    while killed is None or killed.code == 0:  # this run was quicker than the one that was timed
        shutil.rmtree(folder, ignore_errors=True)
        moment *= 0.9 if killed else 1
        killed = stages.qat(calibration_set.folder, folder, kill_after=moment)
    assert killed.code == KILLED, killed.output
    kept = steps_kept(folder)
    resumed = stages.qat(calibration_set.folder, folder)
    assert resumed.code == 0, resumed.output
    assert_whole_student(folder, reference.folder)
    return moment, kept


def test_synth_survives_kills_at_random_times(stages: Stages, whole_set: Reference, tmp_path: Path) -> None:
    draw = random.Random(SEED)
    for number in range(2):
        kill_synth(stages, whole_set, tmp_path / str(number), draw)


def test_qat_survives_kills_at_random_times(
    stages: Stages, whole_set: Reference, whole_student: Reference, tmp_path: Path
) -> None:
    draw = random.Random(SEED)
    for number in range(2):
        kill_qat(stages, whole_set, whole_student, tmp_path / str(number), draw)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_campaign_of_kills_during_synth(stages: Stages, whole_set: Reference, tmp_path: Path) -> None:
    draw = random.Random(SEED + 1)
    for number in range(CAMPAIGN):
        moment, kept = kill_synth(stages, whole_set, tmp_path / str(number), draw)
        print(
            f"synth {number + 1:2d}: killed after {moment:.2f} s of {whole_set.seconds:.2f} s, {kept} of 6 shards kept"
        )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_campaign_of_kills_during_qat(
    stages: Stages, whole_set: Reference, whole_student: Reference, tmp_path: Path
) -> None:
    draw = random.Random(SEED + 2)
    for number in range(CAMPAIGN):
        moment, kept = kill_qat(stages, whole_set, whole_student, tmp_path / str(number), draw)
        seconds = whole_student.seconds
        print(
            f"qat {number + 1:2d}: killed after {moment:.2f} s of {seconds:.2f} s, checkpoint of step {kept} of 12 kept"
        )


@pytest.mark.parametrize(
    ("call", "number"),
    [
        pytest.param("replace", 2, id="with a shard unnamed"),
        pytest.param("replace", 3, id="between a shard and its record"),
        pytest.param("fsync", 5, id="while a shard is written"),
    ],
)
def test_synth_survives_a_kill_at_every_shard(
    stages: Stages, whole_set: Reference, tmp_path: Path, call: str, number: int
) -> None:
    # Each run finishes one shard, starts the next and dies; the last one ends by itself.
    codes = []
    for shards in range(1, 6):
        codes.append(stages.synth(tmp_path, ("die_at_call", call, number)).code)
        assert readable_shards(tmp_path) == shards, "finished shards stay, the one at work is not there"
    assert codes == [KILLED] * 5
    assert stages.synth(tmp_path).code == 0
    assert_whole_set(tmp_path, whole_set.folder)


def test_qat_survives_a_kill_at_every_checkpoint(
    stages: Stages, whole_set: Reference, whole_student: Reference, tmp_path: Path
) -> None:
    codes = []
    for rename in (0, 1, 2, 3, 4, 5):  # ptq weights and manifest, then tensors and records of checkpoints
        codes.append(stages.qat(whole_set.folder, tmp_path, ("die_at_call", "replace", rename)).code)
        steps_kept(tmp_path)
    assert codes == [KILLED] * 6
    assert stages.qat(whole_set.folder, tmp_path).code == 0
    assert_whole_student(tmp_path, whole_student.folder)
