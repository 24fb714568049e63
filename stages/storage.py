"""Files on shared storage: content digests and atomic writes."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from schemas.errors import InputError
from schemas.files import regular_file
from stages.container import unwritable

TEMPORARY_SUFFIX = ".zsq-tmp"
"""Ends the name of every file that is not whole yet."""


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's content.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with regular_file(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block succeeds, and vanishes when it fails.

    The content is fsynced before the rename and the folder after it, so that a reader sees the old file or the whole
    new one, also after a power cut.

    Raises:
        InputError: something else than a regular file is there, the folder cannot be created or written, or the
            storage fails (full, read-only, gone) on the way.
    """
    make_folder(path.parent)
    try:
        status = path.lstat()
    except OSError:
        status = None  # not there; or whatever it is shows below
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is no regular file, but a folder, a link, a pipe or a device; name another file")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX)
    except OSError as error:
        raise InputError(
            f"folder {path.parent}: cannot be written ({error.strerror or error}); {unwritable(error)}"
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "what was finished before is kept: mend the storage and run the same command to go on"
        ) from error
    finally:
        with suppress(OSError):  # the storage that failed above may fail here too
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (UTF-8)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_folder(path: Path) -> None:
    """Create a folder and its parents.

    Raises:
        InputError: it cannot be created here.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"folder {path}: cannot be created ({error.strerror or error}); {unwritable(error)}"
        ) from error


def remove_file(path: Path) -> None:
    """Delete a file, if it is there.

    Raises:
        InputError: it cannot be deleted.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be removed ({error.strerror or error}); check its folder's owner") from error


def remove_temporaries(folder: Path) -> None:
    """Delete what killed processes were writing below `folder`; only for who alone writes there."""
    for path in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        remove_file(path)
