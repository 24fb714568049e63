"""Which family a file is of, without running it and without torch in the module that says so."""

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from ultralytics.nn.tasks import RTDETRDetectionModel

from detectors.family import family_of_file
from detectors.registry import check_size, load_teacher
from detectors.ultralytics.checkpoint import input_size
from detectors.ultralytics.rtdetr import RtdetrDetector
from schemas.errors import ConfigError, InputError
from schemas.image_size import ImageSize
from schemas.teacher import TeacherIdentity, TeacherSource

Save = Callable[[Any], Path]
CPU = torch.device("cpu")


def test_ultralytics_is_seen_in_its_checkpoint(save_checkpoint: Save, library_model: Any) -> None:
    assert family_of_file(save_checkpoint({"model": library_model})) == "ultralytics"


def test_an_old_checkpoint_that_is_no_zip_is_seen_too(tmp_path: Path, library_model: Any) -> None:
    path = tmp_path / "old.pt"
    torch.save({"model": library_model}, path, _use_new_zipfile_serialization=False)
    assert family_of_file(path) == "ultralytics"
    torch.save({"model": {"a": torch.zeros(2)}}, path, _use_new_zipfile_serialization=False)
    assert family_of_file(path) == "torchvision"


def test_weights_alone_are_torchvision_s(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(2)}}, tmp_path / "weights.pth")
    save_file({"a": torch.zeros(2)}, tmp_path / "weights.safetensors")
    assert family_of_file(tmp_path / "weights.pth") == "torchvision"
    assert family_of_file(tmp_path / "weights.safetensors") == "torchvision"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a zip", b"<html>404</html>", b"\x80\x02" * 100])
def test_what_is_no_checkpoint_is_left_to_the_loader_that_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert family_of_file(path) == "ultralytics"


def test_the_family_is_found_without_torch() -> None:
    code = "import sys, detectors.source; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_real_checkpoints_are_told_apart(real_teacher: Path) -> None:
    assert family_of_file(real_teacher) == "ultralytics"
    assert family_of_file(real_teacher.parent / "yolov5n-ppe.pt") == "yolov5"


def test_a_teacher_loads_by_what_its_file_shows(save_checkpoint: Save, library_model: Any) -> None:
    teacher = load_teacher(TeacherSource(path=str(save_checkpoint({"model": library_model}))), CPU)
    assert teacher.identity.family == "ultralytics"


def test_rtdetr_is_seen_and_refuses_images_with_fewer_places_than_queries(tmp_path: Path) -> None:
    network = RTDETRDetectionModel("yolov8n-rtdetr.yaml", ch=3, nc=3, verbose=False)
    network.names = {0: "a", 1: "b", 2: "c"}
    path = tmp_path / "r.pt"
    torch.save({"model": network.half()}, path)
    assert family_of_file(path) == "rtdetr"
    teacher = load_teacher(TeacherSource(path=str(path)), CPU)
    assert isinstance(teacher, RtdetrDetector)
    assert teacher.smallest_input == 128
    teacher.decoded(torch.rand(1, 3, 128, 128))
    with pytest.raises(ConfigError, match="image_size: got 64, a teacher of family rtdetr takes 128 pixels or more"):
        check_size(teacher, ImageSize.square(64), "image_size")


def test_weights_that_are_not_finite_are_refused_by_name(save_checkpoint: Save, library_model: Any) -> None:
    broken = copy.deepcopy(library_model)
    broken.model[0].conv.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"model\.0\.conv\.weight holds values that are not finite"):
        load_teacher(TeacherSource(path=str(save_checkpoint({"model": broken}))), CPU)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [(640, 640), ([384, 640], 640), ((64, 96), 96), (500, 512), (None, 640), ("big", 640), (0, 640), ([], 640)],
)
def test_the_size_of_training_is_read_whatever_its_form(stored: object, expected: int) -> None:
    assert input_size(stored, 32) == expected


def test_a_size_off_the_stride_is_refused_with_its_neighbours() -> None:
    teacher = load_teacher(TeacherSource(), CPU)
    assert isinstance(teacher.identity, TeacherIdentity)
    with pytest.raises(ConfigError, match="got 100, the teacher takes multiples of 32; set 96 or 128"):
        check_size(teacher, ImageSize.square(100), "image_size")
    wanted = r"got \[100, 160\], the teacher takes multiples of 32; set \[96, 160\] or \[128, 160\]"
    with pytest.raises(ConfigError, match=wanted):
        check_size(teacher, ImageSize(100, 160), "image_size")
    check_size(teacher, ImageSize(96, 160), "image_size")


def test_an_ssd_refuses_rectangles_and_the_other_families_take_them(torchvision_detector: Callable[..., Any]) -> None:
    ssd = torchvision_detector("ssdlite320_mobilenet_v3_large")
    check_size(ssd, ImageSize.square(320), "image_size")
    wanted = r"image_size: got \[192, 320\], but an SSD resizes .* to 320 x 320 pixels, .* a rectangle; set 320"
    with pytest.raises(ConfigError, match=wanted):
        check_size(ssd, ImageSize(192, 320), "image_size")
    for model in ("fasterrcnn", "maskrcnn", "retinanet", "fcos"):
        check_size(torchvision_detector(model), ImageSize(96, 160), "image_size")
