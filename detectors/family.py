"""Which family a checkpoint file is of, by the classes that its pickle names. Runs nothing of it, imports no torch."""

import importlib
import pickletools
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import get_args

from detectors.families.adapter import FamilyAdapter
from detectors.transformers.saved_model import is_saved_model
from schemas.teacher import Family

MAX_PICKLE_BYTES = 8 * 2**20
"""Most that is read of a pickle; tensors lie beside or behind it, and that of a large detector has 2 MB."""


def family_of_file(path: Path) -> Family:
    """The family of a checkpoint: that of the network it holds, `torchvision` where it holds tensors alone.

    What is no checkpoint is of family `ultralytics`, whose loader says what it is not.
    """
    if path.suffix == ".safetensors":
        return "transformers" if is_saved_model(path) else "torchvision"
    names = named_classes(path)
    beginnings = {start: family for family in get_args(Family) for start in adapter(family).pickled}
    found = [start for start in beginnings if any(name.startswith(start) for name in names)]
    if found:
        return beginnings[max(found, key=len)]  # the one that says most: RT-DETR's class lies in the library's package
    return "torchvision" if any(name.startswith("torch._utils ") for name in names) else "ultralytics"


def adapter(family: Family) -> FamilyAdapter:
    """The adapter of a family: `FAMILY` in the module of its name."""
    found: FamilyAdapter = importlib.import_module(f"detectors.families.{family}").FAMILY
    return found


def named_classes(path: Path) -> set[str]:
    """`module name` of each class or function that a checkpoint's pickles name; none where it is no checkpoint."""
    names: set[str] = set()
    with suppress(Exception):  # what a foreign file makes the readers of archives and opcodes raise
        for name in _named_classes(_pickle(path)):
            names.add(name)
    return names


def _pickle(path: Path) -> bytes:
    """The pickle of a checkpoint: a member of a zip archive, in files of PyTorch before 1.6 the file itself."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            return stream.read(MAX_PICKLE_BYTES)
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        with archive.open(name) as member:
            return member.read(MAX_PICKLE_BYTES)


def _named_classes(content: bytes) -> Iterator[str]:
    """`module name` of each class or function that one of the pickles in `content` names, from opcodes alone."""
    start = 0
    while start < len(content):
        strings: list[str] = []
        length = 0
        for opcode, argument, position in pickletools.genops(content[start:]):
            length = (position or 0) + 1
            if opcode.name == "GLOBAL":
                yield str(argument)
            elif opcode.name == "STACK_GLOBAL" and len(strings) >= 2:
                yield " ".join(strings[-2:])
            elif isinstance(argument, str):
                strings.append(argument)
        if length < 2:
            return
        start += length
