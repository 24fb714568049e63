"""Who may write a folder. Another machine is played by a lock file of another boot id."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from schemas.errors import InputError
from stages import lock as lock_module
from stages.lock import PREFIX, LockHolder, folder_lock
from stages.ranks import Rank
from stages.storage import TEMPORARY_SUFFIX

ALONE = Rank()
HOLD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from stages.lock import folder_lock\n"
    "from stages.ranks import Rank\n"
    "with folder_lock(Path(sys.argv[1]), 'synth', 'key', Rank()):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats of milliseconds."""
    monkeypatch.setattr(lock_module, "BEAT_S", 0.02)
    monkeypatch.setattr(lock_module, "POLL_S", 0.01)
    monkeypatch.setattr(lock_module, "STALE_S", 0.4)


def holding_process(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def elsewhere(folder: Path, rank: Rank = ALONE, key: str = "key") -> Path:
    """The lock of a process on another machine."""
    holder = LockHolder.this_process("synth", key, rank, "another boot").model_copy(update={"host": "node-7"})
    path = folder / f"{PREFIX}{rank.index}"
    path.write_text(holder.to_json())
    return path


def test_a_folder_is_held_inside_the_block_and_clean_after_it(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "set", "synth", "key", ALONE):
        (path,) = (tmp_path / "set").iterdir()
        holder = LockHolder.model_validate_json(path.read_text())
        assert (holder.stage, holder.key, holder.pid) == ("synth", "key", os.getpid())
        (tmp_path / "set" / "made").touch()
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["made"]


def test_a_folder_into_which_nothing_was_put_is_gone_again(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), folder_lock(tmp_path / "set", "synth", "key", ALONE):
        raise ZeroDivisionError
    assert not (tmp_path / "set").exists()


def test_a_living_holder_is_named_and_nothing_of_it_is_touched(tmp_path: Path) -> None:
    process = holding_process(tmp_path)
    try:
        with (
            pytest.raises(InputError, match=rf"written by synth on .*\(process {process.pid}\) since .*stop it"),
            folder_lock(tmp_path, "synth", "key", ALONE),
        ):
            pytest.fail("two writers")
        assert (tmp_path / f"{PREFIX}0").exists()
    finally:
        process.kill()
        process.wait()


def test_a_killed_holder_on_this_machine_is_succeeded_at_once(tmp_path: Path) -> None:
    process = holding_process(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / f"{PREFIX}0").exists()
    said: list[str] = []
    with folder_lock(tmp_path, "synth", "another key", ALONE, on_wait=said.append):
        pass
    assert said == [], "it did not have to watch"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_a_holder_elsewhere_that_touches_its_lock_is_alive(tmp_path: Path) -> None:
    path = elsewhere(tmp_path)
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(0.02):
            os.utime(path)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(InputError, match="on node-7"), folder_lock(tmp_path, "synth", "key", ALONE):
            pytest.fail("two writers")
    finally:
        ended.set()
        thread.join()
    assert path.exists()


@pytest.mark.usefixtures("quick")
def test_a_silent_holder_elsewhere_is_succeeded_after_the_documented_time(tmp_path: Path) -> None:
    elsewhere(tmp_path)
    said: list[str] = []
    started = time.monotonic()
    with folder_lock(tmp_path, "synth", "key", ALONE, on_wait=said.append):
        assert time.monotonic() - started >= lock_module.STALE_S
        assert LockHolder.model_validate_json((tmp_path / f"{PREFIX}0").read_text()).pid == os.getpid()
    (line,) = said
    assert "node-7" in line and "watching" in line


@pytest.mark.usefixtures("quick")
def test_an_unreadable_lock_is_watched_like_one_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}0").write_text("")
    with folder_lock(tmp_path, "synth", "key", ALONE):
        assert LockHolder.model_validate_json((tmp_path / f"{PREFIX}0").read_text()).key == "key"


@pytest.mark.usefixtures("quick")
def test_a_holder_whose_lock_was_taken_over_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    event = threading.Event()

    def lost(message: str) -> None:
        told.append(message)
        event.set()

    with folder_lock(tmp_path, "synth", "key", ALONE, on_loss=lost):
        (tmp_path / f"{PREFIX}0").unlink()
        other = elsewhere(tmp_path)
        assert event.wait(20)
    assert "took this folder over" in told[0]
    assert other.exists(), "the lock of the other one stays"


def test_ranks_of_a_run_share_a_folder_and_the_same_rank_twice_does_not(tmp_path: Path) -> None:
    with folder_lock(tmp_path, "synth", "key", Rank(0, 2)), folder_lock(tmp_path, "synth", "key", Rank(1, 2)):
        with (
            pytest.raises(InputError, match="rank 1 of 2"),
            folder_lock(tmp_path, "synth", "key", Rank(1, 2)),
        ):
            pytest.fail("the same rank twice")
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("key", "rank"), [("other", Rank(1, 2)), ("key", Rank(1, 3))])
def test_ranks_of_different_runs_do_not_share_a_folder(tmp_path: Path, key: str, rank: Rank) -> None:
    with folder_lock(tmp_path, "synth", "key", Rank(0, 2)):
        with pytest.raises(InputError, match="rank 0 of 2"), folder_lock(tmp_path, "synth", key, rank):
            pytest.fail("two runs")
        assert [path.name for path in tmp_path.iterdir()] == [f"{PREFIX}0"]


def test_of_many_that_start_at_once_one_gets_in(tmp_path: Path) -> None:
    script = HOLD.replace("time.sleep(60)", "time.sleep(1)").replace("with folder", "print('ready', flush=True)\n"
        "sys.stdin.readline()\nwith folder")  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outcomes = [process.communicate()[0] for process in processes]
    assert outcomes.count("held\n") == 1


def test_who_holds_a_folder_alone_clears_what_killed_writers_left(tmp_path: Path) -> None:
    (tmp_path / "ptq").mkdir()
    left = [tmp_path / f".a.x{TEMPORARY_SUFFIX}", tmp_path / "ptq" / f".b.y{TEMPORARY_SUFFIX}"]
    for path in (*left, tmp_path / ".mine.tmp"):
        path.touch()
    with folder_lock(tmp_path, "synth", "key", Rank(0, 2)):
        assert all(path.exists() for path in left), "another rank may be writing them"
    with folder_lock(tmp_path, "synth", "key", ALONE):
        assert not any(path.exists() for path in left)
    assert (tmp_path / ".mine.tmp").exists()


def test_a_lock_that_is_a_link_is_refused_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}0").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="cannot be written"), folder_lock(tmp_path, "synth", "key", Rank()):
        pass
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("os.open", refuse)
    with (
        pytest.raises(InputError, match=r"cannot be written \(Read-only file system\)"),
        folder_lock(tmp_path, "synth", "key", ALONE),
    ):
        pytest.fail("held without a lock")
