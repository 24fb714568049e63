"""Students made to harm: hostile safetensors headers and architectures are refused, and nothing runs."""

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from detectors.protocol import Detector
from detectors.registry import load_teacher
from detectors.ultralytics.yolo import UltralyticsDetector
from quantization.convert import make_student
from quantization.student import load_student, save_student
from schemas.calibration_set import ImageSource, LabelMode
from schemas.errors import VerificationError
from schemas.provenance import Provenance
from schemas.qat_config import QatConfig
from schemas.student import MANIFEST, WEIGHTS, CalibrationSetReference, TrainingMethod, TrainingSummary
from schemas.teacher import TeacherSource
from tests.detectors.test_odd_checkpoints import rtdetr_content
from tests.hostile.conftest import refused

CPU = torch.device("cpu")


def unseeing(teacher: Detector, folder: Path) -> Path:
    """A student that has seen no image; its files are what matters."""
    config = QatConfig(ptq_only=True)
    save_student(
        make_student(teacher, config.bits), folder,
        method=TrainingMethod.PTQ, config=config,
        calibration_set=CalibrationSetReference(
            digest="d", samples=1, image_size=160, label_mode=LabelMode.SAMPLED, image_source=ImageSource.NOISE
        ),
        training=TrainingSummary(steps=0, seconds=0.0, first_loss=None, last_loss=None),
        provenance=Provenance.of("qat", config.keyed(), {}),
    )  # fmt: skip
    load_student(folder, CPU)
    return folder


@pytest.fixture(scope="module")
def saved(small_teacher: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of a small detector."""
    return unseeing(small_teacher, tmp_path_factory.mktemp("student"))


@pytest.fixture
def student(saved: Path, tmp_path: Path) -> Path:
    """The student, to be spoilt."""
    return shutil.copytree(saved, tmp_path / "student")


def sign(folder: Path) -> None:
    values = json.loads((folder / MANIFEST).read_text())
    values["weights_sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(values))


def raw(header: bytes | dict[str, Any], body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(start: int = 0, end: int = 4, shape: tuple[int, ...] = (1,), dtype: str = "F32") -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        raw({}, length=2**63),
        raw({}, length=2**64 - 1),
        raw({}, length=10 * 2**30),
        raw(b"{"),
        raw(b"[" * 100_000),
        raw(b'{"a":' * 100_000),
        raw(b"\xff\xfe"),
        raw({}),
        raw(tensor(), b"\0" * 4),
        raw(tensor(), b"\0" * 3),
        raw(tensor(end=2**40), b"\0" * 4),
        raw(tensor(start=4, end=0), b"\0" * 4),
        raw(tensor(start=-4, end=0), b"\0" * 4),
        raw(tensor(shape=(2**32, 2**32)), b"\0" * 4),
        raw(tensor(shape=(2**62,), end=4), b"\0" * 4),
        raw(tensor(shape=(-1,)), b"\0" * 4),
        raw(tensor(dtype="PICKLE"), b"\0" * 4),
        raw(tensor(dtype="F4"), b"\0" * 4),
        raw(tensor() | {"b": tensor()["a"]}, b"\0" * 4),
        raw(tensor(), b"\0" * 4 + b"more"),
        raw({"__metadata__": {"a": 1}}, b""),
    ],
    ids=range(23),
)
def test_headers_that_lie_are_refused(student: Path, content: bytes) -> None:
    (student / WEIGHTS).write_bytes(content)
    sign(student)
    assert WEIGHTS in refused(lambda: load_student(student, CPU))


def test_tensors_of_another_type_are_refused(student: Path) -> None:
    tensors = load_file(student / WEIGHTS)
    name = next(name for name, value in tensors.items() if value.dtype == torch.float32 and value.ndim == 4)
    for dtype in (torch.float64, torch.float16, torch.int8, torch.bool, torch.complex64):
        save_file(tensors | {name: tensors[name].to(dtype)}, student / WEIGHTS)
        sign(student)
        assert str(dtype) in refused(lambda: load_student(student, CPU))


@pytest.mark.parametrize("kind", ["input_quantizer.step_size", "weight_quantizer.step_size", "zero_point", "weight"])
@pytest.mark.parametrize(
    ("number", "said"),
    [(float("nan"), "not finite"), (float("inf"), "not finite"), (-3e38, r"that no training leaves (3e+38)")],
)
def test_numbers_that_no_training_leaves_are_refused(student: Path, kind: str, number: float, said: str) -> None:
    tensors = load_file(student / WEIGHTS)
    name = next(name for name in tensors if name.endswith(kind))
    tensors[name].view(-1)[0] = number
    save_file(tensors, student / WEIGHTS)
    sign(student)
    text = refused(lambda: load_student(student, CPU))
    assert f"{name} holds values " in text and said in text


def test_integers_that_the_architecture_fixes_are_not_others(
    torchvision_detector: Callable[..., Detector], tmp_path: Path
) -> None:
    folder = unseeing(torchvision_detector("fcos"), tmp_path)
    tensors = load_file(folder / WEIGHTS)
    name = next(name for name in tensors if name.endswith("relative_position_index"))
    for number in (2**32 + 5, 3):  # a place that is not there, and another one than the architecture's
        tensors[name][7] = number
        save_file(tensors, folder / WEIGHTS)
        sign(folder)
        text = refused(lambda: load_student(folder, CPU))
        assert f"{name} holds other integers than the architecture has there" in text


@pytest.mark.parametrize(
    ("part", "layer", "argument", "value"), [("backbone", 0, 2, []), ("backbone", 1, 2, [[[]]]), ("head", -1, 2, [])]
)
def test_a_student_that_builds_and_does_not_compute_is_refused(
    part: str, layer: int, argument: int, value: Any, tmp_path: Path
) -> None:
    torch.save(rtdetr_content(), tmp_path / "rtdetr.pt")
    teacher = load_teacher(TeacherSource(path=str(tmp_path / "rtdetr.pt"), family="rtdetr"), CPU)
    folder = unseeing(teacher, tmp_path / "student")
    values = json.loads((folder / MANIFEST).read_text())
    values["teacher"]["architecture"][part][layer][3][argument] = value
    (folder / MANIFEST).write_text(json.dumps(values))
    text = refused(lambda: load_student(folder, CPU))
    assert "does not compute on a colour image of" in text or "does not build" in text


def test_an_architecture_that_its_weights_file_cannot_hold_is_not_built(
    torchvision_detector: Callable[..., Detector], tmp_path: Path
) -> None:
    folder = unseeing(torchvision_detector("fcos"), tmp_path)
    values = json.loads((folder / MANIFEST).read_text())
    values["teacher"]["architecture"]["backbone"]["width"] = 2048
    (folder / MANIFEST).write_text(json.dumps(values))
    assert "numbers, more than a file of" in refused(lambda: load_student(folder, CPU))


def test_a_weights_file_cut_anywhere_in_its_header_is_refused(student: Path) -> None:
    whole = (student / WEIGHTS).read_bytes()
    for length in (8, 9, 100, 1000, len(whole) // 2, len(whole) - 1):
        (student / WEIGHTS).write_bytes(whole[:length])
        sign(student)
        refused(lambda: load_student(student, CPU))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("activation", "__import__('os').mkdir('ran')"),
        ("activation", "torch.nn.SiLU() or __import__('os').mkdir('ran')"),
        ("nc", 10**9),
        ("width_multiple", 1e9),
        ("depth_multiple", 1e9),
        ("width_multiple", float("inf")),
        ("backbone", [[-1, 10**9, "Conv", [16, 3, 2]]]),
        ("backbone", [[-1, 1, "Conv", [10**9, 3, 2]]]),
        ("backbone", [[-1, 1, "Conv", [16, 3, 2]]] * 5000),
        ("backbone", [[-1, "__import__('os').mkdir('ran')", "Conv", [16, 3, 2]]]),
        ("backbone", [[-1, 1, "__import__('os').mkdir", ["ran"]]]),
        ("backbone", [[-1, 1, "nn.Module.__init__", ["ran"]]]),
        ("backbone", [[-1, 1, "Conv", ["__import__('os').mkdir('ran')", 3, 2]]]),
        ("backbone", [-1]),
        ("backbone", None),
        ("head", "x" * 10**6),
        ("head", [[[[[[[[[[1]]]]]]]]]]),
        ("scales", {"n": ["__import__('os').mkdir('ran')", 1, 1]}),
    ],
    ids=range(18),
)
def test_architectures_run_nothing_and_take_no_more_than_a_detector(
    key: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # As where somebody imported the library before this project could ask it to load safely.
    monkeypatch.setattr("ultralytics.nn.tasks.SAFE_LOAD", False)
    identity = UltralyticsDetector.embedded().identity
    spoilt = identity.model_copy(update={"architecture": identity.architecture | {key: value}})
    with pytest.raises(VerificationError, match="architecture of the teacher"):
        UltralyticsDetector.build(spoilt)
    assert list(tmp_path.iterdir()) == []
