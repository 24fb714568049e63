"""Checkpoints of family yolov5 are pickles from anybody: nothing they name is built, imported or called."""

import io
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.serialization import get_safe_globals

from detectors.yolov5.checkpoint import CLASSES, Inert, read_checkpoint
from detectors.yolov5.detector import Yolov5Detector
from tests.hostile.conftest import refused


@pytest.fixture
def leash() -> None:
    """Loading torch's own code takes more address space than the leash of this folder leaves."""


class Call:
    """Calls a function with arguments when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def archive(path: Path, pickled: bytes) -> Path:
    """A checkpoint in PyTorch's format around any pickle."""
    torch.save({}, path)
    content = io.BytesIO()
    with zipfile.ZipFile(path) as given, zipfile.ZipFile(content, "w") as made:
        for name in given.namelist():
            made.writestr(name, pickled if name.endswith("data.pkl") else given.read(name))
    path.write_bytes(content.getvalue())
    return path


def stand_in(kind: str, place: str = "models.yolo") -> bytes:
    """Protocol 2: an instance of `place.kind` without state yet; a state and BUILD may follow."""
    return b"c" + place.encode() + b"\n" + kind.encode() + b"\n)\x81"


def network(state: bytes) -> bytes:
    """`{"model": Model}`, the model's state given as the opcodes that make it."""
    return b"\x80\x02}X\x05\x00\x00\x00model" + stand_in("Model") + state + b"bs."


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


HOSTILE = {
    "system": b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
    "eval": b"\x80\x02cbuiltins\neval\nX\x05\x00\x00\x00print\x85R.",
    "getattr": b"\x80\x02cbuiltins\ngetattr\n.",
    "import": b"\x80\x02cantigravity\nfly\n)\x81.",
    "unknown-block": network(b"}" + text("_modules") + b"}" + text("0") + stand_in("Evil", "models.common") + b"ss"),
    "torch-load": b"\x80\x02ctorch\nload\nX\x04\x00\x00\x00/etc\x85R.",
    "dunder": network(b"}" + text("__class__") + b"K\x01s"),
    "list": b"\x80\x02].",
    "number": b"\x80\x02K\x05.",
    "no-state": network(b"}"),
    "state-is-a-list": network(b"]"),
    "model-is-text": b"\x80\x02}X\x05\x00\x00\x00modelX\x01\x00\x00\x00xs.",
    "model-is-conv": b"\x80\x02}X\x05\x00\x00\x00model" + stand_in("Conv", "models.common") + b"s.",
    "modules-is-itself": b"\x80\x02}X\x05\x00\x00\x00model" + stand_in("Model") + b"q\x01}" + text("_modules") + b"}"
    + text("a") + b"h\x01ssbs.",
    "modules-of-numbers": network(b"}" + text("_modules") + b"}" + text("a") + b"K\x01ss"),
    "no-names": network(b"}" + text("yaml") + b"}s"),
    "names-is-a-number": network(b"}" + text("names") + b"K\x07s"),
    "names-are-a-dictionary-of-text": network(b"}" + text("names") + b"}" + text("a") + text("b") + b"ss"),
    "yaml-of-stand-ins": network(
        b"}(" + text("names") + b"]" + text("a") + b"a" + text("yaml") + stand_in("Model") + b"u"
    ),
    "truncated": network(b"}")[:-3],
}  # fmt: skip


@pytest.mark.parametrize("pickled", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_pickle_is_refused(tmp_path: Path, pickled: bytes) -> None:
    path = archive(tmp_path / "model.pt", pickled)
    before = set(sys.modules)
    assert str(path) in refused(lambda: Yolov5Detector.load(path))
    assert not {name for name in set(sys.modules) - before if name.partition(".")[0] in ("antigravity", "models")}


def test_what_a_pickle_would_call_is_not_called(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "model.pt"
    for content in ({"model": Call(os.mkdir, str(marker))}, Call(os.mkdir, str(marker))):
        torch.save(content, path)
        refused(lambda: Yolov5Detector.load(path, trust_pickle=True))
        assert not marker.exists()


def test_the_call_is_live(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    pickle.loads(pickle.dumps(Call(os.mkdir, str(tmp_path / "ran"))))
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize("content", [b"", b"\x80\x02}.", b"PK\x03\x04", b"<html>404</html>", bytes(range(256)) * 4])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    refused(lambda: Yolov5Detector.load(path))


def test_stand_ins_have_no_behaviour_and_the_allow_list_is_put_back(tmp_path: Path) -> None:
    before = set(map(str, get_safe_globals()))
    stored, _ = read_checkpoint(archive(tmp_path / "model.pt", network(b"}" + text("training") + b"K\x05s")))
    assert stored.attributes == {"training": 5}
    refused(lambda: read_checkpoint(archive(tmp_path / "bad.pt", HOSTILE["system"])))
    assert set(map(str, get_safe_globals())) == before

    assert {name for name in vars(Inert) if callable(getattr(Inert, name))} == {"__new__", "__init__", "__setstate__"}
    modules = {name.partition(".")[0] for name in CLASSES}
    assert modules == {"models", "torch", "numpy", "pathlib"}, "stand-ins alone are given to the unpickler"


def test_a_class_of_torch_is_not_built_either(tmp_path: Path) -> None:
    """A convolution of 2^40 weights would be built by calling it; a stand-in takes whatever it is called with."""
    conv = b"ctorch.nn.modules.conv\nConv2d\nJ\x00\x00\x00\x40J\x00\x00\x00\x40K\x03\x87R"
    path = archive(tmp_path / "model.pt", network(b"}" + text("_modules") + b"}" + text("a") + conv + b"ss"))
    stored, _ = read_checkpoint(path)
    assert stored.modules["a"].kind == "Conv2d"
    refused(lambda: Yolov5Detector.load(path))
