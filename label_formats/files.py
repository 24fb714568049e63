"""Files that somebody else wrote: found as the Ultralytics reader finds them, read within bounds, named in short."""

import os
import stat
from collections.abc import Iterable, Iterator
from os.path import exists, isfile
from pathlib import Path

from schemas.errors import InputError
from schemas.files import regular_file
from stages.storage import file_digest

MAX_LABEL_BYTES = 64 * 2**20
"""Largest text file of labels or names that is read."""
MAX_JSON_BYTES = 2**30
"""Largest COCO file that is read; that of COCO's 118,000 training images has 450 MB."""
MAX_FILES = 4_000_000
"""Most files below one folder: links that lead around in a circle would have no end."""
NAME_LISTS = ("classes.txt", "_classes.txt", "predefined_classes.txt")
"""Lists of class names that labelling tools leave among label files."""
SHOWN = 60
"""Most characters of a foreign name in a message."""


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file, without a UTF-8 byte order mark.

    Raises:
        InputError: it is missing, is no regular file (a pipe would never end), or has more than `limit` bytes.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{shown(path)}: cannot be read (not a file); replace it")
        with regular_file(path) as stream:
            content = stream.read(min(path.stat().st_size, limit) + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(path)}: cannot be read ({_reason(error)}); replace the file") from error
    if len(content) > limit:
        raise InputError(f"{shown(path)}: is larger than {limit >> 20} MiB, as no file of its kind is; check the path")
    return content.removeprefix(b"\xef\xbb\xbf")


def content_digest(path: Path) -> str:
    """sha256 (hex) of a regular file.

    Raises:
        InputError: it is missing, is no regular file, or cannot be read.
    """
    if exists(path) and not isfile(path):
        raise InputError(f"{shown(path)}: cannot be read (not a file); replace it")
    return file_digest(path)


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, with or without a byte order mark.

    Raises:
        InputError: it cannot be read, is too large, or is no text.
    """
    try:
        return read_bytes(path, MAX_LABEL_BYTES).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{shown(path)}: cannot be read ({error.reason}); save it as UTF-8 text") from error


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, those in hidden and in linked folders too, in no order.

    A link to a folder above itself is not followed.

    Raises:
        InputError: a folder cannot be listed, or there are too many files.
    """
    count = 0
    pending = [(folder, frozenset[tuple[int, int]]())]
    try:
        while pending:
            current, above = pending.pop()
            status = current.stat()
            here = (status.st_dev, status.st_ino)
            if here in above:
                continue
            with os.scandir(current) as entries:
                for entry in entries:
                    count += 1
                    if entry.is_dir():
                        pending.append((current / entry.name, above | {here}))
                    else:
                        yield current / entry.name
            if count > MAX_FILES:
                raise InputError(f"{shown(folder)}: more than {MAX_FILES} files lie below it; name a smaller folder")
    except OSError as error:
        where = shown(error.filename or folder)
        raise InputError(f"{where}: cannot be listed ({_reason(error)}); check who may read it") from error


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file below `folder`, or a folder on the way to it, has a name that begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def visible(paths: Iterable[Path]) -> list[Path]:
    """Paths whose names do not begin with a dot, in order: macOS leaves `._a.xml` beside `a.xml`."""
    return sorted(path for path in paths if not path.name.startswith("."))


def some(names: Iterable[object], limit: int = 5) -> str:
    """The first few of many names, each cut short, for an error."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(cut(name) for name in listed[:limit]) + more


def cut(name: object, limit: int = SHOWN) -> str:
    """A foreign text on one line, its middle left out where it has more than `limit` characters."""
    return _cut(" ".join(str(name).split()), limit)


def shown(path: object) -> str:
    """A path in an error: whole, unless it is longer than a line should be."""
    return _cut(str(path), 4 * SHOWN)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[1 - limit // 2 :]}"


def count_of(number: int, one: str, many: str | None = None) -> str:
    """`1 box`, `1,200 boxes`: a number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def repeated_labels(number: int) -> tuple[str, ...]:
    """The remark on labels of which only the first counts, as the Ultralytics reader does."""
    return (count_of(number, "label that is there twice", "labels that are there twice"),) if number else ()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
