"""Storage that is full, read-only, forbidden or stale: one line, what was finished stays, the next run goes on."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.errors import ExitCode
from tests.faults.conftest import Reference, Stages
from tests.faults.test_kill import assert_whole_set, assert_whole_student, readable_shards, steps_kept

NOBODY = 65534
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="mounting and changing the user need root")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A folder that is a file system of its own, in memory, with the given options; again: remounted with others."""
    folder = tmp_path / "volume"
    folder.mkdir()

    def mount(options: str) -> Path:
        again = "remount," if os.path.ismount(folder) else ""
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"{again}{options}", "tmpfs", str(folder)], capture_output=True, text=True
        )
        if done.returncode != 0:
            pytest.skip(f"cannot mount here: {done.stderr.strip()}")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder of this user that others may enter and read."""
    folder = Path(tempfile.mkdtemp(prefix="zsq-faults-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@needs_root
def test_a_full_disk_stops_synth_and_more_room_lets_it_go_on(
    stages: Stages, whole_set: Reference, mounted: Callable[[str], Path]
) -> None:
    volume = mounted("size=80k")
    line = stages.synth(volume / "set").line(ExitCode.BAD_INPUT)
    assert "cannot be written (No space left on device)" in line and "run the same command to go on" in line
    kept = readable_shards(volume / "set")
    assert 1 <= kept < 6
    before = {path.name: path.stat().st_ino for path in (volume / "set").glob("*.tar")}
    assert len(before) in (kept, kept + 1)

    mounted("size=10m")
    assert stages.synth(volume / "set").code == 0
    assert_whole_set(volume / "set", whole_set.folder)


@needs_root
def test_a_full_disk_stops_qat_and_more_room_lets_it_go_on(
    stages: Stages, whole_set: Reference, whole_student: Reference, mounted: Callable[[str], Path]
) -> None:
    # Room for the student before training, and not for the larger checkpoint beside it.
    room = sum(path.stat().st_size for path in (whole_student.folder / "ptq").iterdir()) + 2**20
    volume = mounted(f"size={room}")
    line = stages.qat(whole_set.folder, volume / "student").line(ExitCode.BAD_INPUT)
    assert "checkpoints/step-00000002.safetensors: cannot be written (No space left on device)" in line
    assert steps_kept(volume / "student") == 0

    mounted("size=200m")
    assert stages.qat(whole_set.folder, volume / "student").code == 0
    assert_whole_student(volume / "student", whole_student.folder)


def test_a_file_size_limit_is_one_line_too(
    stages: Stages, whole_set: Reference, whole_student: Reference, tmp_path: Path
) -> None:
    line = stages.qat(whole_set.folder, tmp_path / "student", ("limit_file_size", 100_000)).line(ExitCode.BAD_INPUT)
    assert "ptq/model.safetensors: cannot be written (File too large)" in line
    assert stages.qat(whole_set.folder, tmp_path / "student").code == 0
    assert_whole_student(tmp_path / "student", whole_student.folder)


@needs_root
def test_a_read_only_volume_is_refused_before_any_work(
    stages: Stages, whole_set: Reference, mounted: Callable[[str], Path]
) -> None:
    volume = mounted("size=10m")
    (volume / "there").mkdir()
    mounted("ro")
    for output in (volume / "new", volume / "there"):
        for outcome in (stages.synth(output), stages.qat(whole_set.folder, output)):
            assert "Read-only file system" in outcome.line(ExitCode.BAD_INPUT)
            assert "calibrating" not in outcome.output and "shard 1" not in outcome.output


@needs_root
def test_finished_output_on_a_read_only_volume_is_up_to_date(
    stages: Stages, whole_set: Reference, mounted: Callable[[str], Path]
) -> None:
    volume = mounted("size=10m")
    shutil.copytree(whole_set.folder, volume / "set")
    mounted("ro")
    outcome = stages.synth(volume / "set")
    assert outcome.code == 0 and "up to date" in outcome.output


@needs_root
@pytest.mark.parametrize("where", [".", "new"])
def test_a_folder_of_somebody_else_is_refused_before_any_work(stages: Stages, open_folder: Path, where: str) -> None:
    outcome = stages.synth(open_folder / where, ("become", NOBODY), teacher__path="embedded")
    assert "(Permission denied)" in outcome.line(ExitCode.BAD_INPUT)
    assert "shard 1" not in outcome.output
    assert list(open_folder.iterdir()) == []


@needs_root
def test_a_folder_that_cannot_be_reached_is_named(stages: Stages, open_folder: Path, whole_set: Reference) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    for outcome in (
        stages.synth(closed / "set", ("become", NOBODY), teacher__path="embedded"),
        stages.qat(closed / "set", open_folder / "student", ("become", NOBODY), teacher__path="embedded"),
    ):
        line = outcome.line(ExitCode.BAD_INPUT)
        assert str(closed / "set") in line and "Permission denied" in line


@pytest.mark.parametrize(
    ("call", "number", "error", "said"),
    [
        ("replace", 2, "ESTALE", "calib-000001.tar: cannot be written (Stale file handle)"),
        ("replace", 3, "ESTALE", "calib-000001.json: cannot be written (Stale file handle)"),
        ("fsync", 5, "EIO", "calib-000001.tar: cannot be written (Input/output error)"),
        ("fsync", 6, "EDQUOT", "calib-000001.tar: cannot be written (Disk quota exceeded)"),
    ],
)
def test_a_write_that_fails_leaves_earlier_shards_and_the_next_run_goes_on(
    stages: Stages, whole_set: Reference, tmp_path: Path, call: str, number: int, error: str, said: str
) -> None:
    assert said in stages.synth(tmp_path, ("fail_at_call", call, number, error)).line(ExitCode.BAD_INPUT)
    assert readable_shards(tmp_path) == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "neither lock nor half a file stays"
    first = (tmp_path / "calib-000000.tar").stat().st_mtime_ns
    assert stages.synth(tmp_path).code == 0
    assert (tmp_path / "calib-000000.tar").stat().st_mtime_ns == first, "the finished shard was not made again"
    assert_whole_set(tmp_path, whole_set.folder)


@pytest.mark.parametrize(
    ("number", "said", "steps"),
    [
        (4, "step-00000004.safetensors: cannot be written (Stale file handle)", 2),
        (5, "step-00000004.json: cannot be written (Stale file handle)", 2),
    ],
)
def test_a_checkpoint_that_fails_leaves_the_one_before(
    stages: Stages, whole_set: Reference, whole_student: Reference, tmp_path: Path, number: int, said: str, steps: int
) -> None:
    fault = ("fail_at_call", "replace", number, "ESTALE")
    assert said in stages.qat(whole_set.folder, tmp_path, fault).line(ExitCode.BAD_INPUT)
    assert steps_kept(tmp_path) == steps
    resumed = stages.qat(whole_set.folder, tmp_path)
    assert f"going on after step {steps} of 12" in resumed.output
    assert_whole_student(tmp_path, whole_student.folder)
