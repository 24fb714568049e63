"""`data.yaml`, the file that tells an Ultralytics command where images lie and what their classes are called."""

from collections.abc import Callable
from dataclasses import dataclass
from os.path import exists, isdir, isfile
from pathlib import Path
from typing import Any

from label_formats.classes import repeated_names
from label_formats.files import cut, shown, some
from schemas.base import read_config_values
from schemas.errors import ConfigError, InputError
from schemas.files import expanded

DATA = "data.yaml"
SPLITS = ("train", "val", "test")
SAME = {"val": ("val", "validation")}
"""Keys of a split: the library takes `validation` for `val`."""


MAX_POINTS = 1000
"""Most keypoints of an object."""


@dataclass(frozen=True)
class DataYaml:
    """What such a file says.

    Attributes:
        path: of the file.
        root: folder that its relative paths count from; None for the folder of the file, or the working folder.
        entries: folders of images and lists of images of each split, as written.
        names: of the classes that labels count; None where the file gives their number alone.
        classes: their number.
        points: how many keypoints follow each box, and numbers of each (2 or 3); None where there are none.
    """

    path: Path
    root: Path | None
    entries: dict[str, tuple[str, ...]]
    names: tuple[str, ...] | None
    classes: int
    points: tuple[int, int] | None = None

    def sources(self, split: str, there: Callable[[Path], bool] = exists) -> list[Path]:
        """The folders and lists of a split, where they are.

        Args:
            split: its key.
            there: whether a path is what is looked for.

        Raises:
            InputError: the file does not name the split, or something it names is not there.
        """
        entries = next((self.entries[key] for key in SAME.get(split, (split,)) if key in self.entries), ())
        if not entries:
            raise InputError(
                f"{shown(self.path)}: names no images for the split {cut(split)!r} (it has "
                f"{some(self.entries) or 'none'}); add {cut(split)}, or name another split"
            )
        return [self._found(entry, there) for entry in entries]

    def _found(self, entry: str, there: Callable[[Path], bool]) -> Path:
        """An entry below the root; Roboflow writes `../valid/images` for a folder beside the file."""
        tried = [root / name for root in self.roots() for name in (entry, entry.removeprefix("../"))]
        for path in tried:
            if there(path):
                return path
        raise InputError(
            f"{shown(self.path)}: {cut(entry)!r} is not there (looked for {shown(tried[0])}); correct path and the "
            "entries of the splits in this file, or name the folder that holds images/ and labels/"
        )

    def roots(self) -> list[Path]:
        """The folders that entries may count from, the likeliest first."""
        here = self.path.absolute().parent
        if self.root is None:
            return [here]
        return list(dict.fromkeys((here / self.root, Path.cwd() / self.root)))


def is_data_yaml(path: Path) -> bool:
    """Whether a file is one by its name."""
    return path.suffix.lower() in (".yaml", ".yml") and not isdir(path)


def read_data_yaml(path: Path) -> DataYaml:
    """The file, checked.

    Raises:
        InputError: it cannot be read, is not plain YAML, or does not name its classes and images.
    """
    if exists(path) and not isfile(path):  # a pipe would be waited for without end
        raise InputError(f"{shown(path)}: cannot be read (not a file); replace it")
    try:
        values = read_config_values(path)
    except ConfigError as error:
        raise InputError(str(error).replace("configuration file ", "", 1)[:600]) from error
    names, classes = _names(path, values)
    root = values.get("path")
    if root is not None and not (isinstance(root, str) and root):
        raise _wrong(path, "path is the folder that the images are below")
    entries: dict[str, tuple[str, ...]] = {}
    for key in ("train", "val", "validation", "test"):
        value = values.get(key)
        listed = value if isinstance(value, list) else [value] if value else []
        if not all(isinstance(entry, str) and entry for entry in listed):
            raise _wrong(path, f"{key} is a folder of images, a list of folders, or a text file that lists images")
        if listed:
            entries[key] = tuple(listed)
    return DataYaml(path, expanded(root) if root else None, entries, names, classes, _points(path, values))


def _points(path: Path, values: dict[str, Any]) -> tuple[int, int] | None:
    """`kpt_shape`."""
    shape = values.get("kpt_shape")
    if shape is None:
        return None
    if not (
        isinstance(shape, list)
        and len(shape) == 2
        and all(type(each) is int for each in shape)
        and 0 < shape[0] <= MAX_POINTS
        and shape[1] in (2, 3)
    ):
        raise _wrong(path, "kpt_shape is [number of keypoints, 2 or 3 numbers of each]")
    return shape[0], shape[1]


def _names(path: Path, values: dict[str, Any]) -> tuple[tuple[str, ...] | None, int]:
    names, number = values.get("names"), values.get("nc")
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
        raise _wrong(path, "nc is the number of classes")
    if names is None:
        if number is None:
            raise InputError(f"{shown(path)}: does not name its classes; add names, a list in the order of the labels")
        return None, number
    listed = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(listed, dict) or any(isinstance(name, dict | list) or name is None for name in listed.values()):
        raise _wrong(path, "names is a list of class names, or one name for each number from 0")
    by_number = {_number(key): str(name) for key, name in listed.items()}
    if not by_number or sorted(by_number, key=str) != sorted(range(len(listed)), key=str):
        raise _wrong(path, f"names is numbered from 0 without a gap, here {some(listed)}")
    ordered = tuple(by_number[index] for index in range(len(by_number)))
    if repeated := repeated_names(ordered):
        raise InputError(f"{shown(path)}: has two classes of one name ({some(repeated)}); give each a name of its own")
    if number not in (None, len(ordered)):
        raise InputError(f"{shown(path)}: says nc: {number}, but names {len(ordered)} classes; correct one of them")
    return ordered, len(ordered)


def _number(key: object) -> object:
    """A class number, also one that is written as text."""
    return int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 7 else key


def _wrong(path: Path, rule: str) -> InputError:
    return InputError(f"{shown(path)}: {rule}; correct it")
