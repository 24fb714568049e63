"""Masks, turned boxes and keypoints of a set's labels, written as COCO and YOLO files and read back."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco

from label_formats.coco import write_instances
from label_formats.find import find_labelled_images
from label_formats.objects import FurtherLabels
from label_formats.yolo import write_yolo
from schemas.errors import ConfigError, InputError
from schemas.labels import BoxLabel, ImageLabels, LabelOrigin, Mask

WIDTH, HEIGHT = 40, 30
POINTS = ((5.0, 7.0, 2.0), (15.0, 20.0, 0.0))
TURNED = (20.0, 15.0, 16.0, 6.0, math.pi / 6)


def drawn() -> np.ndarray:
    """A large part of 12 x 10 pixels, and a small one of 3 x 3 beside it."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[6:16, 4:16] = 1
    pixels[20:23, 30:33] = 1
    return pixels


def label(**shape: object) -> BoxLabel:
    return BoxLabel.model_validate(
        {"bbox": (4.0, 6.0, 29.0, 17.0), "category_id": 0, "origin": LabelOrigin.SAMPLED} | shape
    )


def with_mask() -> BoxLabel:
    code = coco.encode(np.asfortranarray(drawn()))["counts"].decode()
    return label(segmentation=Mask(size=(HEIGHT, WIDTH), counts=code))


def written(layout: str, folder: Path, *labels: BoxLabel) -> FurtherLabels:
    """What is read of an image with these labels."""
    (folder / "images").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / "a.png")
    images = [("a.png", ImageLabels(width=WIDTH, height=HEIGHT, boxes=labels))]
    if layout == "coco":
        write_instances(folder / "instances.json", "", ["cat"], images)
        source = folder
    else:
        write_yolo(folder, "", ["cat"], images)
        source = folder / "data.yaml"
    (read,) = find_labelled_images(source, None, None).read(["cat"]).images
    assert len(read.boxes) == len(labels)
    return read.further


def test_coco_keeps_every_pixel_of_a_mask_and_counts_them(tmp_path: Path) -> None:
    further = written("coco", tmp_path, with_mask())
    assert further.segmentations is not None and further.areas is not None
    (code,) = further.segmentations
    assert isinstance(code, dict)
    np.testing.assert_array_equal(coco.decode(code | {"counts": code["counts"].encode()}), drawn())
    assert further.areas.tolist() == [drawn().sum()]


def test_yolo_keeps_the_largest_part_of_a_mask(tmp_path: Path) -> None:
    further = written("yolo", tmp_path, with_mask())
    assert further.segmentations is not None
    (polygon,) = further.segmentations[0]
    corners = np.array(polygon).reshape(-1, 2)
    np.testing.assert_allclose(corners.min(axis=0), [4.5, 6.5], atol=1e-4)
    np.testing.assert_allclose(corners.max(axis=0), [15.5, 15.5], atol=1e-4)


@pytest.mark.parametrize("layout", ["coco", "yolo"])
def test_a_turned_box_is_its_four_corners(layout: str, tmp_path: Path) -> None:
    further = written(layout, tmp_path, label(turned=TURNED))
    assert further.segmentations is not None
    corners = np.array(further.segmentations[0]).reshape(-1, 2)
    cx, cy, w, h, angle = TURNED
    np.testing.assert_allclose(corners.mean(axis=0), [cx, cy], atol=1e-4)
    sides = np.linalg.norm(corners - np.roll(corners, -1, axis=0), axis=1)
    np.testing.assert_allclose(sorted(sides), [h, h, w, w], atol=1e-3)
    along = next(edge for edge in corners - np.roll(corners, -1, axis=0) if np.linalg.norm(edge) > (w + h) / 2)
    assert math.atan(along[1] / along[0]) == pytest.approx(angle, abs=1e-4)


@pytest.mark.parametrize("layout", ["coco", "yolo"])
def test_keypoints_keep_their_places_and_what_is_seen_of_them(layout: str, tmp_path: Path) -> None:
    further = written(layout, tmp_path, label(keypoints=POINTS), label(bbox=(1.0, 1.0, 20.0, 20.0), keypoints=POINTS))
    assert further.keypoints is not None
    np.testing.assert_allclose(further.keypoints, [POINTS, POINTS], atol=1e-4)
    if layout == "yolo":
        assert yaml.safe_load((tmp_path / "data.yaml").read_text())["kpt_shape"] == [2, 3]
    else:
        entries = json.loads((tmp_path / "instances.json").read_text())["annotations"]
        assert [entry["num_keypoints"] for entry in entries] == [1, 1]


def test_keypoints_outside_the_image_are_cut_at_its_edges_in_label_files(tmp_path: Path) -> None:
    further = written("yolo", tmp_path, label(keypoints=((-3.0, 40.0, 1.0),)))
    assert further.keypoints is not None
    np.testing.assert_allclose(further.keypoints, [[[0, HEIGHT, 1]]], atol=1e-4)


def test_outlines_without_opencv_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match="take OpenCV, which is not installed"):
        written("yolo", tmp_path, with_mask())


def test_a_mask_without_an_outline_is_the_corners_of_its_box(tmp_path: Path) -> None:
    pixel = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixel[3, 5] = 1
    code = coco.encode(np.asfortranarray(pixel))["counts"].decode()
    tiny = label(bbox=(5.0, 3.0, 1.0, 1.0), segmentation=Mask(size=(HEIGHT, WIDTH), counts=code))
    further = written("yolo", tmp_path, with_mask(), tiny)
    assert further.segmentations is not None
    np.testing.assert_allclose(further.segmentations[1], [[5, 3, 6, 3, 6, 4, 5, 4]], atol=1e-4)


def test_where_only_some_objects_have_outlines_rows_are_boxes(tmp_path: Path) -> None:
    assert written("yolo", tmp_path, with_mask(), label(bbox=(1.0, 1.0, 20.0, 20.0))).segmentations is None
    rows = (tmp_path / "labels" / "a.txt").read_text().splitlines()
    assert [len(row.split()) for row in rows] == [5, 5]


def test_keypoints_that_only_some_objects_have_are_refused_for_label_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"some objects have keypoints and others do not.*export as coco"):
        written("yolo", tmp_path, label(keypoints=POINTS), label(bbox=(1.0, 1.0, 20.0, 20.0)))
