"""A pipe, a device or a link where a file belongs: refused at once, and never replaced."""

import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from label_formats.files import read_bytes
from schemas.base import read_config_values
from schemas.errors import ConfigError, ZsqError
from schemas.files import expanded
from schemas.student import StudentManifest
from stages.lock import PREFIX, folder_lock
from stages.ranks import Rank
from stages.storage import file_digest, write_text


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    """A reader that waits for a writer fails the test."""

    def bark(*_: object) -> None:
        pytest.fail("still waiting")

    before = signal.signal(signal.SIGALRM, bark)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize(
    "read",
    [StudentManifest.read, read_config_values, file_digest, lambda path: read_bytes(path, 100)],
    ids=["document", "configuration", "digest", "labels"],
)
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, kind: str, read: Callable[[Path], object]) -> None:
    path = tmp_path / "student.json"
    {"pipe": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero"), "folder": os.mkdir}[kind](path)  # type: ignore[operator]
    with pytest.raises(ZsqError) as caught:
        read(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def make_device(path: Path) -> None:
    """A device of one's own, where the tests may make one: the one that swallows everything."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")


@pytest.mark.parametrize("kind", ["pipe", "link", "dangling link", "device", "folder"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "report.html"
    (tmp_path / "other").write_text("old")
    make = {
        "pipe": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to("other"),
        "dangling link": lambda: path.symlink_to("nowhere"),
        "device": lambda: make_device(path),
        "folder": path.mkdir,
    }
    make[kind]()
    before = path.lstat().st_mode
    with pytest.raises(ZsqError, match="no regular file"):
        write_text(path, "new")
    assert path.lstat().st_mode == before
    assert (tmp_path / "other").read_text() == "old" and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_lock_that_is_a_pipe_or_a_link_is_refused_at_once(tmp_path: Path, rank: int) -> None:
    os.mkfifo(tmp_path / f"{PREFIX}{rank}")
    with pytest.raises(ZsqError, match="no regular file"), folder_lock(tmp_path, "synth", "key", Rank()):
        pass
    (tmp_path / f"{PREFIX}{rank}").unlink()
    (tmp_path / f"{PREFIX}{rank}").symlink_to("/dev/zero")
    with pytest.raises(ZsqError), folder_lock(tmp_path, "synth", "key", Rank()):
        pass


def test_a_home_that_nobody_has_is_said() -> None:
    with pytest.raises(ConfigError, match="no home folder"):
        expanded("~nosuchuser/x")
