import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from detectors.embedded.scenes import CLASS_NAMES, SCENE_SIZE
from eval_job.data import EmbeddedScenes, find_validation_data
from label_formats.coco import CocoData
from label_formats.yolo import YoloData
from schemas.errors import ConfigError, InputError


def test_a_json_file_is_coco_with_images_beside_it_or_elsewhere(coco_file: Path, tmp_path: Path) -> None:
    assert find_validation_data(str(coco_file), None) == CocoData(coco_file, coco_file.parent / "images")
    assert find_validation_data(str(coco_file), str(tmp_path)) == CocoData(coco_file, tmp_path)


def test_a_folder_is_coco_where_it_holds_instances_else_yolo(yolo_folder: Path, coco_file: Path) -> None:
    assert find_validation_data(str(yolo_folder), None) == CocoData(coco_file, yolo_folder / "images")
    coco_file.unlink()
    assert find_validation_data(str(yolo_folder), None) == YoloData(yolo_folder)


def test_missing_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such file or folder; check data"):
        find_validation_data(str(tmp_path / "nowhere"), None)


def test_a_folder_of_no_known_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs instances\.json"):
        find_validation_data(str(tmp_path), None)


def test_a_missing_image_folder_is_refused(coco_file: Path) -> None:
    with pytest.raises(InputError, match="no such folder; set images"):
        find_validation_data(str(coco_file), "nowhere")


def test_an_image_folder_for_data_with_its_own_images_is_refused(yolo_folder: Path) -> None:
    for data in ("embedded", str(yolo_folder)):
        with pytest.raises(ConfigError, match="images: got 'elsewhere'"):
            find_validation_data(data, "elsewhere")


def test_embedded_scenes_are_the_same_every_time_in_the_order_of_the_teacher() -> None:
    data = EmbeddedScenes(3)
    forward, backward = data.read(CLASS_NAMES), data.read(CLASS_NAMES[::-1])

    assert data.digest() == EmbeddedScenes(3).digest() != EmbeddedScenes(4).digest()
    assert forward.format == "rendered"
    for mine, theirs in zip(forward.images, backward.images, strict=True):
        assert mine.pixels().shape == (SCENE_SIZE, SCENE_SIZE, 3)
        np.testing.assert_array_equal(mine.pixels(), theirs.pixels())
        np.testing.assert_array_equal(mine.boxes, theirs.boxes)
        np.testing.assert_array_equal(mine.classes, len(CLASS_NAMES) - 1 - theirs.classes)


def test_embedded_scenes_need_a_teacher_of_their_classes() -> None:
    with pytest.raises(InputError, match="classes that the teacher does not know"):
        EmbeddedScenes(1).read(("person", "car"))


def test_finding_data_and_starting_up_need_no_torch() -> None:
    script = "import sys, eval_job.__main__; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0
