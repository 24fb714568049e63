"""Only detection checkpoints of the right family load, and nothing in a file ever runs unasked."""

import http.server
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ultralytics.nn.tasks import ClassificationModel, DetectionModel, yaml_model_load
from ultralytics.utils import downloads

from detectors.registry import load_teacher
from detectors.source import checkpoint_digest, checkpoint_path
from detectors.ultralytics.yolo import UltralyticsDetector
from schemas.errors import InputError, VerificationError
from schemas.teacher import TeacherIdentity, TeacherSource
from stages.storage import file_digest

Save = Callable[[Any], Path]
CPU = torch.device("cpu")


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def refusal(path: Path, trust_pickle: bool = False) -> str:
    """The one line with which a checkpoint is refused."""
    with pytest.raises(InputError) as caught:
        load_teacher(TeacherSource(path=str(path), trust_pickle=trust_pickle), CPU)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_a_library_checkpoint_loads_and_gives_the_library_outputs(save_checkpoint: Save, library_model: Any) -> None:
    path = save_checkpoint({"model": library_model, "train_args": {"imgsz": 320, "box": 15.0}})
    teacher = load_teacher(TeacherSource(path=str(path)), CPU)

    assert teacher.identity.class_names == ("cat", "dog", "cow")
    assert (teacher.identity.input_size, teacher.identity.stride) == (320, 32)
    assert teacher.identity.sha256 == file_digest(path)
    assert teacher.network.args.box == 15.0  # type: ignore[union-attr]
    assert not teacher.network.training
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(teacher.network(images)[0], library_model(images)[0])


def test_the_averaged_weights_are_preferred_and_half_precision_becomes_float(
    save_checkpoint: Save, library_model: DetectionModel
) -> None:
    averaged = UltralyticsDetector.embedded().network
    averaged.names = dict(enumerate("abcdefgh"))
    path = save_checkpoint({"model": library_model, "ema": averaged.half(), "train_args": {}})
    teacher = load_teacher(TeacherSource(path=str(path)), CPU)

    assert len(teacher.identity.class_names) == 8
    assert teacher.identity.input_size == 640
    name, weight = next(iter(teacher.network.named_parameters()))
    assert weight.dtype == torch.float32
    assert torch.equal(weight, averaged.get_parameter(name).float())


def test_the_identity_alone_builds_the_same_architecture(save_checkpoint: Save, library_model: DetectionModel) -> None:
    teacher = load_teacher(TeacherSource(path=str(save_checkpoint({"model": library_model}))), CPU)
    identity = TeacherIdentity.model_validate_json(teacher.identity.model_dump_json())
    twin = UltralyticsDetector.build(identity)
    shapes = {name: tensor.shape for name, tensor in teacher.network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in twin.network.state_dict().items()} == shapes


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(save_checkpoint: Save, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = save_checkpoint({"model": Bomb(marker)})
    refusal(path)
    assert not marker.exists()
    refusal(path, trust_pickle=True)
    assert marker.exists(), "the bomb is not live, so the test above proves nothing"


def test_a_bomb_beside_a_real_model_is_refused_and_does_not_run(
    save_checkpoint: Save, tmp_path: Path, library_model: DetectionModel
) -> None:
    marker = tmp_path / "ran"
    refusal(save_checkpoint({"model": library_model, "optimizer": Bomb(marker)}))
    assert not marker.exists()


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x01 not a checkpoint " * 50, b"PK\x03\x04 half a zip", b"<html>404</html>"]
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert "not an Ultralytics YOLO checkpoint" in refusal(path)


def test_a_truncated_checkpoint_is_refused(save_checkpoint: Save, library_model: DetectionModel) -> None:
    path = save_checkpoint({"model": library_model})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [1, 2],
        torch.zeros(3),
        {"weight": torch.zeros(3)},
        {"model": None},
        {"model": {"a": torch.zeros(1)}},
        {"model": torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))},
    ],
    ids=["empty", "list", "tensor", "weights", "none", "state-dict", "other-module"],
)
def test_torch_files_that_hold_no_detector_are_refused(save_checkpoint: Save, content: Any) -> None:
    refusal(save_checkpoint(content))


def test_models_for_other_tasks_are_refused(save_checkpoint: Save) -> None:
    model = ClassificationModel(yaml_model_load("yolo11n-cls.yaml"), ch=3, nc=3, verbose=False)
    assert "detection" in refusal(save_checkpoint({"model": model}))


def test_weights_that_do_not_fit_their_architecture_are_refused(save_checkpoint: Save) -> None:
    model = UltralyticsDetector.embedded().network
    model.model[0].conv = torch.nn.Conv2d(3, 5, 3)
    assert "do not fit its own architecture" in refusal(save_checkpoint({"model": model}))


@pytest.mark.parametrize("trust_pickle", [False, True])
def test_an_anchor_based_yolov5_checkpoint_is_refused_as_one_of_the_package(
    shared_path: Path, trust_pickle: bool
) -> None:
    path = shared_path / "weights" / "yolov5n-ppe.pt"
    if not path.exists():
        pytest.skip(f"needs {path}")
    source = TeacherSource(path=str(path), family="ultralytics", trust_pickle=trust_pickle)
    with pytest.raises(InputError, match=r"teacher\.family"):
        load_teacher(source, CPU)


def test_a_published_checkpoint_loads_safely(real_teacher: Path) -> None:
    teacher = load_teacher(TeacherSource(path=str(real_teacher)), CPU)
    assert len(teacher.identity.class_names) == 80
    assert teacher.identity.input_size == 640


def test_a_missing_file_and_a_folder_are_input_errors(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.pt")
    assert "is a folder without config.json" in refusal(tmp_path)


def test_a_name_that_nobody_published_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "not a published Ultralytics checkpoint" in refusal(Path("yolo99n.pt"))
    assert not list(tmp_path.iterdir())


def test_the_embedded_teacher_has_a_digest_without_a_download() -> None:
    source = TeacherSource()
    assert checkpoint_digest(source) == file_digest(checkpoint_path(source))
    assert load_teacher(source, CPU).identity.sha256 == checkpoint_digest(source)


@pytest.mark.parametrize(
    "architecture",
    [
        {},
        {"nc": 2},
        {"nc": 2, "backbone": [[-1, 1, "Conv", [16, 3, 2]]], "head": []},
        {"nc": 2, "backbone": [[-1, 1, "__import__('os').system('true')", [16]]], "head": []},
    ],
    ids=["nothing", "no-layers", "no-head", "code"],
)
def test_an_architecture_that_does_not_build_fails_verification(architecture: dict[str, Any]) -> None:
    identity = TeacherIdentity(
        family="ultralytics",
        architecture=architecture,
        sha256="0" * 64,
        class_names=("a", "b"),
        input_size=64,
        stride=32,
    )
    with pytest.raises(VerificationError, match="architecture"):
        UltralyticsDetector.build(identity)


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder served in the place of the library's releases; the working folder is an empty one beside it."""
    served, working = tmp_path / "served", tmp_path / "working"
    served.mkdir()
    working.mkdir()
    monkeypatch.chdir(working)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    monkeypatch.setattr(handler.func, "log_message", lambda *_: None)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fetch = downloads.safe_download

    def from_here(url: str, **settings: Any) -> Any:
        name = url.rpartition("/")[2]
        return fetch(url=f"http://127.0.0.1:{server.server_port}/{name}", **settings | {"retry": 0})

    monkeypatch.setattr(downloads, "safe_download", from_here)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield served
    server.shutdown()
    server.server_close()


def test_a_published_name_is_downloaded_into_the_working_folder(release: Path, library_model: DetectionModel) -> None:
    torch.save({"model": library_model}, release / "yolo11n.pt")
    source = TeacherSource(path="yolo11n.pt")

    assert checkpoint_digest(source) == file_digest(release / "yolo11n.pt")
    assert Path("yolo11n.pt").read_bytes() == (release / "yolo11n.pt").read_bytes()
    (release / "yolo11n.pt").unlink()
    assert load_teacher(source, CPU).identity.class_names == ("cat", "dog", "cow")


def test_a_failed_download_is_an_input_error_and_leaves_nothing(release: Path) -> None:
    with pytest.raises(InputError, match="download failed") as caught:
        checkpoint_path(TeacherSource(path="yolo11n.pt"))
    assert "\n" not in str(caught.value)
    assert not list(Path.cwd().iterdir())
