"""Paths and files that somebody else named: only regular files are opened, and what is no path says so."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from schemas.errors import ConfigError


@contextmanager
def regular_file(path: Path) -> Iterator[BufferedReader]:
    """A regular file, open for reading. A pipe or a device of that name, which may have no end, is refused at once.

    Raises:
        OSError: it is not there, is no regular file, or cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{path} is no regular file, but a folder, a pipe or a device")
        yield stream


def expanded(path: str | Path) -> Path:
    """A path with `~` for the home folder.

    Raises:
        ConfigError: there is no such user, or no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: no home folder is known for its ~ here; write the whole path") from error
