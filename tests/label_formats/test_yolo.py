from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from label_formats.coco import CocoData
from label_formats.images import ValidationSet
from label_formats.yolo import YoloData
from schemas.errors import InputError

TEACHER = ("red", "green")


def read(folder: Path) -> ValidationSet:
    return YoloData(folder).read(TEACHER)


def test_yolo_and_coco_readers_agree(yolo_folder: Path, coco_file: Path) -> None:
    coco, yolo = CocoData(coco_file, yolo_folder / "images").read(TEACHER), read(yolo_folder)

    assert len(coco.images) == len(yolo.images) == 3
    for mine, theirs in zip(coco.images, yolo.images, strict=True):
        assert (mine.id, mine.source) == (theirs.id, theirs.source)
        np.testing.assert_allclose(mine.boxes, theirs.boxes, atol=1e-4)
        np.testing.assert_array_equal(mine.classes, theirs.classes)


def test_a_polygon_becomes_its_bounding_box(yolo_folder: Path) -> None:
    (yolo_folder / "labels" / "13.txt").write_text("1 0.25 0.5 0.5 0.125 0.75 0.5 0.5 0.75\n")

    image = read(yolo_folder).images[2]

    np.testing.assert_allclose(image.boxes, [[16, 8, 48, 48]])
    assert image.classes.tolist() == [1]


def test_an_image_without_labels_has_no_boxes_and_labels_without_image_are_ignored(yolo_folder: Path) -> None:
    (yolo_folder / "labels" / "99.txt").write_text("not a label\n")

    data = read(yolo_folder)

    assert [len(image.boxes) for image in data.images] == [2, 1, 0]


def test_images_in_sub_folders_have_their_labels_in_the_same_sub_folder(yolo_folder: Path) -> None:
    for kind, name in (("images", "12.png"), ("labels", "12.txt")):
        (yolo_folder / kind / "val").mkdir()
        (yolo_folder / kind / name).rename(yolo_folder / kind / "val" / name)

    assert sorted((image.id, len(image.boxes)) for image in read(yolo_folder).images) == [(11, 2), (12, 1), (13, 0)]


def test_images_are_numbered_where_their_names_are_not_numbers(yolo_folder: Path) -> None:
    (yolo_folder / "images" / "13.png").rename(yolo_folder / "images" / "kitchen.png")

    assert [image.id for image in read(yolo_folder).images] == [1, 2, 3]


def test_boxes_of_a_turned_photo_are_in_pixels_of_the_turned_image(yolo_folder: Path) -> None:
    path = yolo_folder / "images" / "12.png"
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(path, exif=exif)
    (yolo_folder / "labels" / "12.txt").write_text("1 0.5 0.5 1 1\n")

    turned = read(yolo_folder).images[1]

    np.testing.assert_allclose(turned.boxes, [[0, 0, 64, 48]])
    assert turned.pixels().shape == (48, 64, 3)


def test_boxes_without_area_are_left_out_and_counted(yolo_folder: Path) -> None:
    (yolo_folder / "labels" / "13.txt").write_text("1 0.5 0.5 0 0.5\n")
    data = read(yolo_folder)

    assert (data.boxes, data.without_area) == (3, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", r"class index 2, but the teacher's 2 classes are 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "class index -1"),
        ("0.5 0.5 0.5 0.1 0.1", "class index 0.5"),
        ("nan 0.5 0.5 0.1 0.1", "class index nan"),
        ("0 0.5 0.5 0.1", "got 4 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.9", "got 6 numbers"),
        ("red 0.5 0.5 0.1 0.1", "not a number"),
        ("0 20 0.5 0.1 0.1", "shares of the image side"),
        ("0 nan 0.5 0.1 0.1", "shares of the image side"),
    ],
)
def test_a_wrong_line_is_refused_naming_file_and_line(yolo_folder: Path, line: str, message: str) -> None:
    (yolo_folder / "labels" / "13.txt").write_text(f"0 0.5 0.5 0.1 0.1\n\n{line}\n")

    with pytest.raises(InputError, match=rf"13\.txt, line 3: .*{message}"):
        read(yolo_folder)


def test_a_label_file_that_is_not_text_is_refused(yolo_folder: Path) -> None:
    (yolo_folder / "labels" / "13.txt").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(InputError, match=r"13\.txt: cannot be read"):
        read(yolo_folder)


def test_a_file_that_is_no_image_is_named(yolo_folder: Path) -> None:
    (yolo_folder / "images" / "12.png").write_bytes(b"no image")

    with pytest.raises(InputError, match=r"image .*12\.png: cannot be decoded"):
        read(yolo_folder)


def test_no_image_is_refused(yolo_folder: Path) -> None:
    for path in (yolo_folder / "images").iterdir():
        path.unlink()

    with pytest.raises(InputError, match="holds no image"):
        read(yolo_folder)


def test_no_box_is_refused(yolo_folder: Path) -> None:
    for path in (yolo_folder / "labels").iterdir():
        path.unlink()

    with pytest.raises(InputError, match="holds no box"):
        read(yolo_folder)


def test_the_digest_follows_labels_that_are_used(yolo_folder: Path) -> None:
    before = YoloData(yolo_folder).digest()
    (yolo_folder / "labels" / "99.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert YoloData(yolo_folder).digest() == before

    (yolo_folder / "labels" / "13.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert YoloData(yolo_folder).digest() != before
