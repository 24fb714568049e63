"""Checkpoints that unpickle safely and hold anything: loaded and examined, or one line; no traceback, no network.

Some mutations of every family in each run; ZSQ_FUZZ_CASES sets how many, ZSQ_FUZZ_SEED others.
"""

import copy
import os
import random
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import (
    ClassificationModel,
    DetectionModel,
    RTDETRDetectionModel,
    SemanticSegmentationModel,
    WorldModel,
    yaml_model_load,
)

from detectors.examination import examine
from detectors.registry import load_teacher
from detectors.ultralytics.yolo import UltralyticsDetector
from schemas.errors import InputError, ZsqError
from schemas.teacher import TeacherIdentity, TeacherSource
from tests.detectors.oddities import INFINITE, NAN, spoil
from tests.detectors.ultralytics.test_rtdetr import SMALL
from tests.detectors.yolov5.conftest import architecture
from tests.detectors.yolov5.conftest import identity as yolov5_identity
from tests.detectors.yolov5.pickled import as_pickled, repository
from tests.small_detector import small_detector

CASES = int(os.environ.get("ZSQ_FUZZ_CASES", "26"))
SEED = int(os.environ.get("ZSQ_FUZZ_SEED", "0"))
CPU = torch.device("cpu")
NAMES = list("abcdefgh")

pytestmark = pytest.mark.usefixtures("no_network")


def made_once(make: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Gives a copy of what `make` made the first time: to build a network takes longer than to copy it."""
    made = cache(make)
    return wraps(make)(lambda *arguments: copy.deepcopy(made(*arguments)))


@made_once
def ultralytics_content() -> dict[str, Any]:
    network = small_detector().network
    network.names, network.args = dict(enumerate(NAMES)), {"imgsz": 160}
    arguments = {"imgsz": 160, "box": 7.5, "cls": 0.5, "dfl": 1.5, "project": "/home/user/secret"}
    return {"model": network, "ema": None, "train_args": arguments, "epoch": -1}


@made_once
def rtdetr_content() -> dict[str, Any]:
    torch.manual_seed(0)
    network = RTDETRDetectionModel(copy.deepcopy(SMALL), ch=3, nc=3, verbose=False)
    network.names = {0: "cat", 1: "dog", 2: "cow"}
    return {"model": network.eval(), "ema": None, "train_args": {"imgsz": 64}}


@made_once
def torchvision_content(torchvision_detector: Callable[..., Any]) -> dict[str, Any]:
    built = torchvision_detector("fcos")
    return {
        "model": dict(built.network.state_dict()),
        "architecture": copy.deepcopy(built.identity.architecture),
        "class_names": list(built.identity.class_names),
        "input_size": 96,
    }


def yolov5_content() -> dict[str, Any]:
    from detectors.yolov5.detector import Yolov5Detector

    torch.manual_seed(0)
    described = copy.deepcopy(architecture(width=0.125))
    network = Yolov5Detector.build(yolov5_identity(described)).network
    attributes = {"yaml": described, "names": ["cat", "dog", "cow"], "hyp": {"box": 0.05, "cls": 0.5}}
    return {"model": as_pickled(network, **attributes), "ema": None, "opt": {"imgsz": 64}}


def outcome(path: Path, **settings: Any) -> str | None:
    """The line with which a checkpoint is refused; None where it loads. Anything else fails the test."""
    try:
        teacher = load_teacher(TeacherSource(path=str(path), **settings), CPU)
    except ZsqError as error:
        text = str(error)
        assert "\n" not in text and len(text) < 1000
        assert str(path) in text
        return text
    assert teacher.identity.class_names
    teacher.identity.model_dump_json()  # as every manifest will hold it
    return None


@pytest.mark.parametrize("seed", range(SEED, SEED + CASES))
@pytest.mark.parametrize("family", ["ultralytics", "rtdetr", "yolov5", "torchvision"])
def test_a_mutated_checkpoint_loads_or_is_refused_in_one_line(
    family: str, seed: int, tmp_path: Path, torchvision_detector: Callable[..., Any]
) -> None:
    path = tmp_path / "odd.pt"
    rng = random.Random(f"{family} {seed}")
    with repository():
        make = {
            "ultralytics": ultralytics_content,
            "rtdetr": rtdetr_content,
            "yolov5": yolov5_content,
            "torchvision": lambda: torchvision_content(torchvision_detector),
        }[family]
        content = copy.deepcopy(make())  # the library shares one activation between all networks
        print(spoil(content, rng))
        torch.save(content, path)
    print(outcome(path, family=family))


def checkpoint(path: Path, arguments: Any = None, **attributes: Any) -> Path:
    """A detector as a checkpoint of the library, some of its attributes replaced."""
    content = ultralytics_content()
    content["model"].__dict__.update(attributes)
    torch.save(content | {"train_args": {} if arguments is None else arguments}, path)
    return path


BOMB: Any = "x"
for _ in range(9):
    BOMB = [BOMB] * 900
LARGE: Any = torch.zeros(1).expand(60_000, 60_000)


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"names": {1: "a", 2: "b", 3: "c"}}, "classes count from 0"),
        ({"names": None}, "no list of class names"),
        ({"names": []}, "no list of class names"),
        ({"names": ["a"] * 7 + [""]}, "class 7 has no name"),
        ({"names": ["\ud800", *NAMES[1:]]}, "class 0 has no name"),
        ({"names": ["a" * 10_000, *NAMES[1:]]}, "class 0 has no name"),
        ({"names": NAMES[:5]}, "do not fit its own architecture"),
        ({"names": ["a"] * 8}, "more than one class of one name"),
        ({"stride": None}, "its strides are"),
        ({"stride": torch.tensor([NAN])}, "its strides are"),
        ({"stride": torch.tensor([1e6])}, "its strides are"),
        ({"stride": torch.tensor([64.0])}, "its stride is 64, and it is 32"),
        ({"yaml": None}, "no description of its network"),
        ({"yaml": {"backbone": LARGE}}, "more than plain values"),
        ({"yaml": yaml_model_load("yolo11n.yaml") | {"channels": 1}}, "1 channels; only colour images"),
        ({"yaml": {"backbone": BOMB}}, "more or deeper values"),
        ({"names": [BOMB] * 8}, "class 0 has no name"),
        ({"stride": LARGE}, "its strides are a Tensor"),
        ({"_modules": None}, "odd.pt"),
        ({"_parameters": {"p": 5}, "_state_dict_hooks": {"a": 5}}, None),
        ({"names": {str(index): name for index, name in enumerate(NAMES)}}, None),
        ({"names": dict(reversed(list(enumerate(NAMES))))}, None),
        ({"names": list(range(8))}, None),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else str(value)[:30],
)  # fmt: skip
def test_what_is_wrong_with_a_checkpoint_is_said(tmp_path: Path, attributes: dict[str, Any], said: str | None) -> None:
    text = outcome(checkpoint(tmp_path / "odd.pt", **attributes))
    assert text is None if said is None else text is not None and said in text


@pytest.mark.parametrize(
    ("arguments", "side"),
    [([1], 640), ({"imgsz": [480, 640]}, 640), ({"imgsz": 10**6}, 640), ({"imgsz": NAN}, 640), ({"imgsz": 150}, 160),
     ({"imgsz": "x", "box": "x"}, 640), ({"imgsz": INFINITE, "box": INFINITE, "cls": None, "dfl": NAN}, 640)],
)  # fmt: skip
def test_settings_of_training_that_are_none_count_as_not_stored(tmp_path: Path, arguments: Any, side: int) -> None:
    teacher = load_teacher(TeacherSource(path=str(checkpoint(tmp_path / "odd.pt", arguments))), CPU)
    assert teacher.identity.input_size == side
    assert (teacher.network.args.box, teacher.network.args.cls) == (7.5, 0.5)  # type: ignore[union-attr]


def test_a_description_without_its_scale_letter_keeps_the_one_it_was_built_with(tmp_path: Path) -> None:
    described = yaml_model_load("yolo11n.yaml") | {"yaml_file": "/home/user/secret-project/helmet.yaml"}
    described.pop("scale")
    network = DetectionModel(described, ch=3, nc=3, verbose=False)
    network.names = {0: "a", 1: "b", 2: "c"}
    torch.save({"model": network, "train_args": {}}, tmp_path / "custom.pt")
    teacher = load_teacher(TeacherSource(path=str(tmp_path / "custom.pt")), CPU)
    assert teacher.identity.architecture["scale"] == "n"
    assert "secret" not in teacher.identity.model_dump_json(), "the owner's path would travel with a set"


def test_a_fused_checkpoint_is_called_that(tmp_path: Path) -> None:
    content = ultralytics_content()
    content["model"].fuse(verbose=False)
    torch.save(content, tmp_path / "fused.pt")
    assert "was fused" in str(outcome(tmp_path / "fused.pt"))


def test_a_network_shared_into_a_tower_does_not_take_for_ever(tmp_path: Path) -> None:
    content = ultralytics_content()
    tower: nn.Module = nn.Identity()
    for _ in range(28):
        tower = nn.Sequential(tower, tower)
    content["model"].model[0].extra = tower
    torch.save(content, tmp_path / "tower.pt")
    assert "more or deeper modules" in str(outcome(tmp_path / "tower.pt"))


def test_weights_that_are_larger_than_their_file_are_refused_before_they_are_made(tmp_path: Path) -> None:
    content = ultralytics_content()
    content["model"].model[0].conv.weight = nn.Parameter(LARGE, requires_grad=False)
    torch.save(content, tmp_path / "large.pt")
    assert "more than a file of" in str(outcome(tmp_path / "large.pt"))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("weight", torch.zeros(1, dtype=torch.cfloat), "not a plain tensor of real numbers"),
        ("running_var", torch.tensor([-1.0]), "variances below zero"),
    ],
)
def test_numbers_that_no_training_leaves_are_refused(tmp_path: Path, name: str, value: Any, said: str) -> None:
    content = ultralytics_content()
    layer = content["model"].model[-1].cv2[0][0]  # of the boxes: class scores stay as they were
    holder = layer.conv._parameters if name == "weight" else layer.bn._buffers
    spoilt = value.expand_as(holder[name]).clone()
    holder[name] = nn.Parameter(spoilt, requires_grad=False) if name == "weight" else spoilt
    torch.save(content, tmp_path / "odd.pt")
    assert said in str(outcome(tmp_path / "odd.pt"))


def test_an_archive_that_unfolds_is_refused_before_it_does(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data/0", bytes(200 * 2**20))
        archive.writestr("bomb/data.pkl", b"\x80\x02}.")
    assert "unfolds from" in str(outcome(tmp_path / "bomb.pt"))


@pytest.mark.parametrize("weights", ["'DEFAULT'", None], ids=["weights", "default"])
def test_a_backbone_of_torchvision_does_not_fetch_its_weights(weights: str | None) -> None:
    more = [] if weights is None else [weights, True, 2, False]
    described = {
        "nc": 3,
        "backbone": [[-1, 1, "TorchVision", [512, "resnet18", *more]]],
        "head": [[[0], 1, "Detect", ["nc"]]],
    }
    identity = TeacherIdentity(
        family="ultralytics",
        architecture=described,
        sha256="0" * 64,
        class_names=tuple("abc"),
        input_size=64,
        stride=32,
    )
    detector = UltralyticsDetector.build(identity)
    assert detector.identity.architecture == described
    examine(detector, CPU)


def test_a_layer_that_is_a_whole_network_of_its_own_file_is_refused(tmp_path: Path) -> None:
    described = {"nc": 3, "backbone": [[-1, 1, "DetectionModel", ["https://127.0.0.1:1/x.yaml"]]], "head": []}
    text = outcome(checkpoint(tmp_path / "odd.pt", yaml=described))
    assert "names the layer 'DetectionModel'" in str(text)


@pytest.mark.parametrize(
    ("network", "cfg", "said"),
    [
        (SemanticSegmentationModel, "yolo26n-sem.yaml", "semantic segmentation"),
        (ClassificationModel, "yolo11n-cls.yaml", "classification"),
        (WorldModel, "yolov8s-worldv2.yaml", "YOLO-World"),
    ],
)
def test_other_tasks_are_named(tmp_path: Path, network: Any, cfg: str, said: str) -> None:
    torch.save({"model": network(cfg, ch=3, nc=3, verbose=False)}, tmp_path / "other.pt")
    assert said in str(outcome(tmp_path / "other.pt"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("m.onnx", b"", "ONNX"), ("m.pt", b"\x08\x08\x12\x07pytorch", "ONNX"), ("m.engine", b"x", "TensorRT"),
     ("m.pt", b"\x1c\0\0\0TFL3", "LiteRT")],
)  # fmt: skip
def test_an_exported_model_is_no_teacher(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert f"an exported {said} model" in str(outcome(tmp_path / name))


def test_a_torchscript_archive_under_a_checkpoints_name_is_named(tmp_path: Path) -> None:
    torch.jit.script(nn.Conv2d(3, 4, 3)).save(str(tmp_path / "best.pt"))
    assert "TorchScript" in str(outcome(tmp_path / "best.pt"))


def test_a_class_of_the_users_own_is_named(tmp_path: Path) -> None:
    import sys
    import types

    module = types.ModuleType("my_blocks")
    module.Attention = type("Attention", (nn.Module,), {"__module__": "my_blocks"})  # type: ignore[attr-defined]
    sys.modules["my_blocks"] = module
    content = ultralytics_content()
    content["model"].model[0].extra = module.Attention()  # type: ignore[attr-defined]
    torch.save(content, tmp_path / "own.pt")
    del sys.modules["my_blocks"]
    assert "needs the class my_blocks.Attention" in str(outcome(tmp_path / "own.pt"))


@pytest.mark.parametrize("family", ["ultralytics", "yolov5", "torchvision"])
def test_a_family_that_the_file_is_not_of_is_refused(tmp_path: Path, family: Any) -> None:
    torch.save(rtdetr_content(), tmp_path / "rtdetr.pt")
    with pytest.raises(InputError, match=r"teacher\.family|family"):
        load_teacher(TeacherSource(path=str(tmp_path / "rtdetr.pt"), family=family), CPU)
