"""What is known to be wrong is said before any work starts."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.train_heads import NAMES, build
from pipeline.preflight import checks
from pipeline.preflight.checks import bytes_free, examine
from pipeline.preflight.findings import Findings, described, duration
from pipeline.settings import read_run_config
from schemas.errors import ConfigError, InputError
from schemas.image_size import ImageSize
from schemas.run_config import RunConfig


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No time is measured, and relative paths lie in the test's folder."""
    monkeypatch.setattr(
        "pipeline.preflight.estimate.expected_seconds", lambda *_: {"synth": 600.0, "qat": 60.0, "eval": 60.0}
    )
    monkeypatch.chdir(tmp_path)


def run(*assignments: str) -> RunConfig:
    return read_run_config(None, ["device=cpu", *assignments])


def test_the_embedded_run_can_start():
    found = examine(run(), containers=False)
    assert (found.family, found.classes, found.image_size, found.own_size) == (
        "ultralytics",
        8,
        ImageSize.square(160),
        True,
    )
    assert (found.labelled_images, found.photos) == (256, None)


@pytest.mark.parametrize(
    ("assignments", "error", "said"),
    [
        (("image_size=100",), ConfigError, "image_size: got 100, the teacher takes multiples of 32; set 96 or 128"),
        (("synth.labels.size=90",), ConfigError, "synth.labels.size: got 90"),
        (("eval.image_size=90",), ConfigError, "eval.image_size: got 90"),
        (("qat.bits.layers={no.such.layer: 4}",), ConfigError, "no.such.layer"),
        (("qat.sensitivity.budget=4",), ConfigError, "sensitivity.budget: got 4, but 4.066 is the lowest mean"),
        (("eval.onnx.providers=[NoSuchProvider]",), ConfigError, "NoSuchProvider"),
        (("qat.device=cuda:99",), ConfigError, "cuda:99"),
        (("eval.images=.", "eval.photos=p"), ConfigError, "eval.images: is set, but eval.data is not"),
        (("eval.data=coco",), InputError, "a folder needs"),
        (("eval.data=yolo",), InputError, "class index 9, but the teacher's 8 classes are 0 to 7"),
        (("eval.photos=empty",), InputError, "no image in this folder"),
        (("eval.photos=broken",), InputError, "broken/1.png: cannot be decoded"),
    ],
)
def test_a_run_that_would_fail_later_is_refused_now(tmp_path, assignments, error, said):
    for name in ("coco", "empty", "broken", "p", "yolo/images", "yolo/labels"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "broken" / "1.png").write_text("no image")
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(tmp_path / "p" / "1.png")
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(tmp_path / "yolo/images/1.png")
    (tmp_path / "yolo/labels/1.txt").write_text("9 0.5 0.5 0.1 0.1\n")
    with pytest.raises(error) as caught:
        examine(run(*assignments), containers=False)
    assert said in str(caught.value)


def test_the_split_that_will_be_measured_is_the_one_that_is_looked_at(tmp_path: Path) -> None:
    for split, category in (("val", 9), ("test", 0)):
        for kind in ("images", "labels"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for number in range(2 if split == "test" else 1):
            Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(
                tmp_path / "data" / "images" / split / f"{number}.png"
            )
            (tmp_path / "data" / "labels" / split / f"{number}.txt").write_text(f"{category} 0.5 0.5 0.1 0.1\n")
    assert examine(run("eval.data=data", "eval.split=test"), containers=False).labelled_images == 2
    with pytest.raises(InputError, match="class index 9"):
        examine(run("eval.data=data"), containers=False)


@pytest.mark.parametrize(
    ("row", "shape", "said"),
    [
        ("0 0.5 0.5 0.2 0.2" + " 0.5 0.5 2" * 5, "[5, 3]", None),
        ("0 0.5 0.5 0.2 0.2" + " 0.5 0.5 2" * 17, "[17, 3]", "17 keypoints of an object, and the detector sees 5"),
        ("0 0.5 0.5 0.2 0.2" + " 0.5 0.5" * 2, "[2, 2]", "2 keypoints of an object, and the detector sees 5"),
    ],
)
def test_keypoints_of_another_number_than_the_detector_sees_are_found_now(
    tmp_path: Path, row: str, shape: str, said: str | None
) -> None:
    torch.save({"model": build("pose").eval(), "train_args": {"imgsz": 160}}, tmp_path / "pose.pt")
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(tmp_path / "data" / "images" / "1.png")
    (tmp_path / "data" / "labels" / "1.txt").write_text(row + "\n")
    names = ", ".join(f"{index}: {name}" for index, name in enumerate(NAMES["pose"]))
    (tmp_path / "data" / "data.yaml").write_text(f"val: images\nkpt_shape: {shape}\nnames: {{{names}}}\n")
    config = read_run_config("pose.pt", ["device=cpu", "eval.data=data/data.yaml"])
    assert_one_image_or(said, config)


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [([[1, 1, 9, 1, 9, 9]], None), ({"size": [32, 32], "counts": [5]}, "a segmentation is no polygon or mask of COCO")],
)
def test_a_mask_that_is_none_is_found_now(tmp_path: Path, segmentation: Any, said: str | None) -> None:
    torch.save({"model": build("segment").eval(), "train_args": {"imgsz": 160}}, tmp_path / "segment.pt")
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(tmp_path / "images" / "1.png")
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 8, 8], "segmentation": segmentation}
    document = {
        "images": [{"id": 1, "file_name": "1.png", "width": 32, "height": 32}],
        "categories": [{"id": 1, "name": NAMES["segment"][0]}], "annotations": [annotation],
    }  # fmt: skip
    (tmp_path / "instances.json").write_text(json.dumps(document))
    config = read_run_config("segment.pt", ["device=cpu", "eval.data=instances.json"])
    assert_one_image_or(said, config)


def assert_one_image_or(said: str | None, config: RunConfig) -> None:
    """The run's one labelled image is found, or what is wrong with it is said."""
    if said is None:
        assert examine(config, containers=False).labelled_images == 1
        return
    with pytest.raises(InputError, match=said):
        examine(config, containers=False)


def test_a_missing_image_of_the_labels_is_found_now(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    (tmp_path / "instances.json").write_text(
        '{"images": [{"id": 1, "file_name": "1.png"}], "categories": [{"id": 1, "name": "circle"}], '
        '"annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}]}'
    )
    names = [name for name in examine(run(), containers=False).model_dump()]
    assert "classes" in names
    text = (tmp_path / "instances.json").read_text().replace("circle", _class_name())
    (tmp_path / "instances.json").write_text(text)
    with pytest.raises(InputError, match=r"1\.png"):
        examine(run("eval.data=instances.json"), containers=False)


def test_a_full_disk_is_found_now(monkeypatch):
    monkeypatch.setattr(checks, "bytes_free", lambda folder: 1_000_000)
    with pytest.raises(InputError, match=r"0\.00 GB are free and about .* are needed; make room"):
        examine(run(), containers=False)


def test_the_room_of_a_folder_that_is_not_there_yet_is_that_of_its_parent(tmp_path):
    assert abs(bytes_free(tmp_path / "a" / "b") - shutil.disk_usage(tmp_path).free) < 10**9


def test_devices_and_engines_of_containers_are_not_those_of_this_machine():
    examine(run("qat.device=cuda:99", "device=cuda:99", "eval.onnx.providers=[NoSuchProvider]"), containers=True)


def test_a_classification_checkpoint_and_one_that_is_not_a_number_are_refused(tmp_path):
    from ultralytics.nn.tasks import ClassificationModel, DetectionModel

    classification = ClassificationModel("yolo11n-cls.yaml", ch=3, nc=3, verbose=False)
    torch.save({"model": classification.half()}, tmp_path / "cls.pt")
    with pytest.raises(InputError, match=r"of another task \(classification\)"):
        examine(read_run_config("cls.pt"), containers=False)
    network: Any = copy.deepcopy(DetectionModel("yolo11n.yaml", ch=3, nc=3, verbose=False))
    next(network.parameters()).data.fill_(float("nan"))
    torch.save({"model": network.half()}, tmp_path / "nan.pt")
    with pytest.raises(InputError, match="values that are not finite"):
        examine(read_run_config("nan.pt"), containers=False)


def test_what_will_be_done_is_said_with_its_time():
    found = Findings(
        family="yolov5", classes=3, parameters=1_800_000, image_size=640, own_size=True, labelled_images=None,
        photos=None,
        bytes_needed=2 * 10**8, bytes_free=10**10, seconds={"synth": 600.0, "qat": 60.0, "eval": 60.0},
    )  # fmt: skip
    facts = dict(described(found, read_run_config("best.pt")))
    assert facts["detector"] == "best.pt: yolov5, 3 classes, 1.8 M parameters"
    assert facts["image size"] == "640 px (what the detector was trained at)"
    assert facts["student"].startswith("W8A8 deploy, training: 250 steps, left out where calibration alone is enough")
    assert facts["calibration set"] == "32 synthetic images, 16 more held back"
    assert facts["evaluation"].startswith("agreement with full precision on the held-back images")
    assert facts["time"] == "about 12 min on this machine (synth 10 min, qat 60 s, eval 60 s)"
    labelled = found.model_copy(update={"labelled_images": 5, "photos": 7})
    facts = dict(described(labelled, read_run_config("best.pt", ["eval.data=val", "eval.photos=p"])))
    assert facts["evaluation"] == "mAP on 5 labelled images of val, agreement on 7 photographs"
    assert facts["calibration set"] == "32 synthetic images"


@pytest.mark.parametrize(("bits", "advised"), [(4, True), (3, False), (8, False)])
def test_planned_bits_are_advised_where_the_widths_of_engines_can_keep_the_budget(bits: int, advised: bool) -> None:
    found = Findings(
        family="ultralytics", classes=1, parameters=1, image_size=ImageSize.square(640), own_size=True,
        labelled_images=None, photos=None, bytes_needed=1, bytes_free=2, seconds={"synth": 1.0},
    )  # fmt: skip
    facts = dict(described(found, read_run_config("best.pt", [f"qat.bits.weight_bits={bits}"])))
    assert ("--budget" in facts["student"]) is advised


def test_times_are_rough():
    assert [duration(each) for each in (0.1, 59.6, 150, 7300)] == ["1 s", "60 s", "2 min", "2.0 h"]


def _class_name() -> str:
    from detectors.embedded.scenes import CLASS_NAMES

    return CLASS_NAMES[0]
