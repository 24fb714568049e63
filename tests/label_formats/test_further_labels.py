"""Masks and keypoints of COCO files, polygons and keypoints of YOLO files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from label_formats.find import find_labelled_images
from schemas.errors import InputError

POLYGON = [4.0, 6.0, 20.0, 6.0, 20.0, 26.0]
POINTS = [5.0, 7.0, 2.0, 15.0, 20.0, 1.0]


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(path)


def coco(folder: Path, *further: dict[str, object]) -> Path:
    """One image with as many objects as there are further entries."""
    image(folder / "images" / "a.png")
    annotations = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": [4 + n, 6, 16, 20]} | each for n, each in enumerate(further)
    ]
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": annotations, "categories": [{"id": 1, "name": "cat"}],
    }  # fmt: skip
    (folder / "instances.json").write_text(json.dumps(document))
    return folder


def test_coco_masks_keypoints_and_areas_are_read(tmp_path: Path) -> None:
    entry = {"segmentation": [POLYGON], "keypoints": POINTS, "area": 160.0}
    (read,) = find_labelled_images(coco(tmp_path, entry, entry), None, None).read(["cat"]).images
    assert read.further.segmentations == [[POLYGON], [POLYGON]]
    assert read.further.keypoints is not None and read.further.keypoints.shape == (2, 2, 3)
    assert read.further.areas is not None and read.further.areas.tolist() == [160.0, 160.0]


def test_what_only_some_objects_have_is_not_known(tmp_path: Path) -> None:
    folder = coco(tmp_path, {"segmentation": [POLYGON], "keypoints": POINTS}, {"segmentation": []})
    (read,) = find_labelled_images(folder, None, None).read(["cat"]).images
    assert read.further.segmentations is None and read.further.keypoints is None


def test_yolo_polygons_are_in_pixels(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.1 0.2 0.5 0.2 0.5 0.8\n")
    (read,) = find_labelled_images(tmp_path, None, None).read(["cat"]).images
    assert read.further.segmentations is not None
    np.testing.assert_allclose(read.further.segmentations[0], [[4, 6, 20, 6, 20, 24]], atol=1e-5)


def pose(folder: Path, row: str, shape: str = "[2, 3]") -> Path:
    image(folder / "images" / "a.png")
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text(row)
    (folder / "data.yaml").write_text(f"train: images\nval: images\nnames: [cat]\nkpt_shape: {shape}\n")
    return folder / "data.yaml"


@pytest.mark.parametrize(
    ("shape", "points", "seen"),
    [("[2, 3]", "0.1 0.2 2 0.5 0.6 0", [2.0, 0.0]), ("[2, 2]", "0.1 0.2 0.5 0.6", [2.0, 2.0])],
)
def test_yolo_keypoints_follow_the_box(tmp_path: Path, shape: str, points: str, seen: list[float]) -> None:
    data = find_labelled_images(pose(tmp_path, f"0 0.5 0.5 0.5 0.5 {points}\n", shape), None, None)
    (read,) = data.read(["cat"]).images
    assert read.boxes.tolist() == [[10.0, 7.5, 30.0, 22.5]]
    assert read.further.keypoints is not None
    np.testing.assert_allclose(read.further.keypoints[0, :, :2], [[4, 6], [20, 18]], atol=1e-5)
    assert read.further.keypoints[0, :, 2].tolist() == seen


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0 0.5 0.5 0.5 0.5 0.1 0.2 2", "got 8 numbers"),
        ("0 0.5 0.5 0.5 0.5 0.1 0.2 2 0.1 3.0 2", "keypoints must be shares"),
        ("0 0.5 0.5 0.5 0.5 0.1 0.2 2 0.1 x 2", "not a number"),
    ],
)
def test_a_line_that_holds_other_keypoints_is_refused(tmp_path: Path, row: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        find_labelled_images(pose(tmp_path, row + "\n"), None, None).read(["cat"])


def test_a_shape_of_keypoints_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kpt_shape is"):
        find_labelled_images(pose(tmp_path, "0 0.5 0.5 0.5 0.5\n", "[2, 7]"), None, None)
