import errno
import hashlib
import os
import stat

import pytest

from schemas.errors import InputError
from stages.storage import atomic_path, file_digest, make_folder, remove_file, write_text


def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="half way"), atomic_path(path) as temporary:
        temporary.write_text("new, but not whole")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_appears_whole_and_readable_by_others(tmp_path):
    path = tmp_path / "below" / "file.json"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent  # a rename between file systems would not be atomic
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_digest_is_sha256_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(InputError, match="cannot be read"):
        file_digest(tmp_path / "none")


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be created.*choose another"):
        make_folder(tmp_path / "file" / "below")


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path, monkeypatch):
    def refuse(**_: object) -> None:  # what a read-only volume does; root may write anywhere else
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(InputError, match=r"cannot be written \(Read-only file system\)"):
        write_text(tmp_path / "file", "x")


@pytest.mark.parametrize(("call", "number", "reason"), [
    ("os.fsync", errno.ENOSPC, "No space left on device"),
    ("pathlib.Path.replace", errno.ESTALE, "Stale file handle"),
    ("pathlib.Path.write_text", errno.EDQUOT, "Disk quota exceeded"),
])  # fmt: skip
def test_storage_that_fails_on_the_way_is_one_line_and_the_old_file_stays(tmp_path, monkeypatch, call, number, reason):
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    path = tmp_path / "file"
    write_text(path, "old")
    monkeypatch.setattr(call, fail)
    with pytest.raises(InputError, match=rf"file: cannot be written \({reason}\).*run the same command to go on"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_removed_is_an_input_error(tmp_path):
    remove_file(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be removed"):
        remove_file(tmp_path)
