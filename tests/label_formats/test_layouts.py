"""Layouts that people have: what is read, what is left out and said, what is refused."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from label_formats.coco import CocoData, own_names
from label_formats.find import check_given, find_labelled_images, folders_read, given_digest, read_given
from label_formats.images import ValidationSet
from label_formats.yolo import YoloData
from schemas.errors import ConfigError, InputError

TEACHER = ("red", "green")


def read(path: Path, split: str | None = None) -> ValidationSet:
    return find_labelled_images(path, None, split).read(TEACHER)


def refusal(path: Path, split: str | None = None) -> str:
    with pytest.raises((InputError, ConfigError)) as caught:
        found = find_labelled_images(path, None, split)
        found.digest()
        found.read(TEACHER)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 700
    return text


def same(mine: ValidationSet, theirs: ValidationSet) -> None:
    assert len(mine.images) == len(theirs.images)
    for one, other in zip(mine.images, theirs.images, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.classes, other.classes)


def write_yaml(folder: Path, **values: object) -> Path:
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({"train": "images", "val": "images", "names": list(TEACHER)} | values))
    return path


def in_splits(folder: Path, train: str = "train", val: str = "val") -> Path:
    """The drawn folder with image 11 in one split, 12 and 13 in the other."""
    for kind, suffix in (("images", "png"), ("labels", "txt")):
        for name, split in (("11", train), ("12", val), ("13", val)):
            (folder / kind / split).mkdir(exist_ok=True)
            file = folder / kind / f"{name}.{suffix}"
            if file.exists():
                file.rename(folder / kind / split / file.name)
    return folder


def test_hidden_files_and_folders_are_left_out_and_counted(yolo_folder: Path) -> None:
    before = read(yolo_folder)
    (yolo_folder / "images" / "._11.png").write_bytes(b"\0\5\26\7Mac OS X")
    (yolo_folder / "images" / ".ipynb_checkpoints").mkdir()
    shutil.copy(yolo_folder / "images" / "11.png", yolo_folder / "images" / ".ipynb_checkpoints" / "11.png")
    (yolo_folder / "images" / "12.gif").write_bytes(b"GIF89a")
    after = read(yolo_folder)
    same(before, after)
    assert "2 hidden image files; 1 file of another kind of picture" in after.remarks


def test_linked_folders_are_followed_once(yolo_folder: Path, tmp_path: Path) -> None:
    before = read(yolo_folder)
    for kind in ("images", "labels"):
        (yolo_folder / kind).rename(tmp_path / f"elsewhere {kind}")
        (yolo_folder / kind).mkdir()
        (yolo_folder / kind / "link").symlink_to(tmp_path / f"elsewhere {kind}")
        (yolo_folder / kind / "link" / "around").symlink_to(yolo_folder / kind)
    same(before, read(yolo_folder))


def test_a_linked_folder_of_images_has_its_labels_beside_the_link_or_beside_its_target(
    yolo_folder: Path, tmp_path: Path
) -> None:
    before = read(yolo_folder)
    store = tmp_path / "store"
    store.mkdir()
    (yolo_folder / "images").rename(store / "images")
    (yolo_folder / "images").symlink_to(store / "images")
    same(before, read(yolo_folder))
    (yolo_folder / "labels").rename(store / "labels")
    same(before, read(yolo_folder))


def test_labels_beside_the_images_are_found(yolo_folder: Path) -> None:
    before = read(yolo_folder)
    for file in (yolo_folder / "labels").iterdir():
        file.rename(yolo_folder / "images" / file.name)
    (yolo_folder / "labels").rmdir()
    (yolo_folder / "images" / "classes.txt").write_text("red\ngreen\n")
    same(before, read(yolo_folder))
    darknet = (yolo_folder / "images").rename(yolo_folder / "obj_train_data")
    same(before, read(darknet))
    same(before, read(yolo_folder))


def test_images_without_labels_and_labels_without_images_are_counted(yolo_folder: Path) -> None:
    (yolo_folder / "labels" / "99.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert read(yolo_folder).remarks == "1 image without a label file (background); 1 label file without an image"


def test_labels_one_level_off_are_refused(yolo_folder: Path) -> None:
    (yolo_folder / "images" / "val").mkdir()
    (yolo_folder / "images" / "12.png").rename(yolo_folder / "images" / "val" / "12.png")
    assert "labels/12.txt: lies in another folder than the label file of" in refusal(yolo_folder)
    (yolo_folder / "images" / "val" / "12.png").rename(yolo_folder / "images" / "12.png")
    (yolo_folder / "labels" / "val").mkdir()
    (yolo_folder / "labels" / "12.txt").rename(yolo_folder / "labels" / "val" / "12.txt")
    assert "labels/val/12.txt: lies in another folder" in refusal(yolo_folder)


def test_flat_labels_of_a_split_are_refused_unless_they_are_of_images_there(yolo_folder: Path) -> None:
    in_splits(yolo_folder)
    (yolo_folder / "labels" / "val" / "12.txt").rename(yolo_folder / "labels" / "12.txt")
    assert "labels/12.txt: lies in another folder" in refusal(yolo_folder / "images" / "val")


def test_rows_that_are_there_twice_count_once(yolo_folder: Path) -> None:
    before = read(yolo_folder)
    rows = yolo_folder / "labels" / "11.txt"
    rows.write_text(rows.read_text() * 2)
    same(before, read(yolo_folder))
    assert "2 labels that are there twice" in read(yolo_folder).remarks
    assert read_given(yolo_folder, TEACHER).left_out == ("2 labels that are there twice",)


def test_annotations_that_are_there_twice_count_once(
    instances: dict[str, list[dict[str, object]]], write_coco: Callable[[object], Path]
) -> None:
    before = read(write_coco(instances))
    path = write_coco(instances | {"annotations": instances["annotations"] + instances["annotations"][:2]})
    same(before, read(path))
    assert read(path).remarks == "2 labels that are there twice"
    assert read_given(path, TEACHER).left_out == ("2 labels that are there twice",)


def test_objects_that_are_there_twice_count_once(voc_folder: Path) -> None:
    before = read(voc_folder)
    path = voc_folder / "Annotations" / "11.xml"
    path.write_text(path.read_text().replace("</size>", "</size>" + path.read_text().split("</size>")[1][:-13]))
    same(before, read(voc_folder))
    assert read(voc_folder).remarks == "2 labels that are there twice"


def test_a_polygon_of_the_same_bounds_is_another_object_as_in_the_library(yolo_folder: Path) -> None:
    (yolo_folder / "labels" / "12.txt").write_text(
        "1 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n1 0.1 0.1 0.5 0.1 0.1 0.5\n" + "1 0.1 0.1 0.5 0.1 0.1 0.5\n"
    )
    assert len(read(yolo_folder).images[1].boxes) == 2


@pytest.mark.parametrize("rows", ["0 0.5 0.5 0.1 0.1\n1 0.1 0.1 0.5 0.1 0.1 0.5\n", "0 0.5 0.5 -0.005 0.1\n"])
def test_files_that_the_library_drops_are_refused(yolo_folder: Path, rows: str) -> None:
    (yolo_folder / "labels" / "12.txt").write_text(rows)
    assert "12.txt, line" in refusal(yolo_folder)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "val2017", "Val"])
def test_of_splits_val_is_measured_and_another_can_be_named(yolo_folder: Path, name: str) -> None:
    in_splits(yolo_folder, val=name)
    assert [image.id for image in read(yolo_folder).images] == [12, 13]
    assert [image.id for image in read(yolo_folder, "train").images] == [11]
    assert [image.id for image in read(yolo_folder / "images" / "train").images] == [11]
    assert [image.id for image in read(yolo_folder / "images").images] == [12, 13]
    assert "no split 'test'; set split to one of" in refusal(yolo_folder, "test")


def test_a_split_of_data_without_splits_is_refused(yolo_folder: Path, coco_file: Path) -> None:
    assert "split: got 'test'" in refusal(coco_file, "test")
    assert "split: got 'test'" in refusal(yolo_folder, "test")
    coco_file.unlink()
    assert "split: got 'test'" in refusal(yolo_folder, "test")


def test_a_split_of_a_voc_folder_is_one_of_its_lists(voc_folder: Path) -> None:
    same(read(voc_folder), read(voc_folder, "test"))
    assert "has no list 'val'; set split to one of test" in refusal(voc_folder, "val")


def test_images_beside_splits_are_not_measured_with_them(yolo_folder: Path) -> None:
    in_splits(yolo_folder)
    Image.new("RGB", (32, 32)).save(yolo_folder / "images" / "14.png")
    assert "holds images beside folders of splits (train, val); set split" in refusal(yolo_folder)
    assert [image.id for image in read(yolo_folder, "val").images] == [12, 13]


def test_of_two_like_val_one_must_be_named(yolo_folder: Path) -> None:
    in_splits(yolo_folder, "val2014", "val2017")
    assert "more than one split 'val'; set split to one of val2014, val2017" in refusal(yolo_folder)
    assert len(read(yolo_folder, "val2017").images) == 2


def test_folders_that_are_no_splits_are_measured_together(yolo_folder: Path) -> None:
    in_splits(yolo_folder, "camera1", "camera2")
    assert len(read(yolo_folder).images) == 3
    assert len(read(yolo_folder, "camera2").images) == 2


def test_splits_with_images_and_labels_of_their_own(yolo_folder: Path) -> None:
    in_splits(yolo_folder, val="valid")
    for split in ("train", "valid"):
        (yolo_folder / split).mkdir()
        for kind in ("images", "labels"):
            (yolo_folder / kind / split).rename(yolo_folder / split / kind)
    for kind in ("images", "labels"):
        (yolo_folder / kind).rmdir()
    (yolo_folder / "README.roboflow.txt").write_text("exported")
    assert [image.id for image in read(yolo_folder).images] == [12, 13]
    path = write_yaml(yolo_folder, train="../train/images", val="../valid/images")
    assert [image.id for image in read(path).images] == [12, 13]
    assert len(read_given(yolo_folder, TEACHER).images) == 2


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"path": "."},
        {"path": "ABSOLUTE"},
        {"val": ["images"]},
        {"val": "list.txt"},
        {"names": {0: "red", 1: "green"}},
        {"names": {"1": "green", "0": "red"}, "nc": 2},
        {"names": None, "nc": 2},
    ],
    ids=str,
)
def test_data_yaml_is_read_as_the_library_reads_it(
    yolo_folder: Path, values: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.data import utils

    before = read(yolo_folder)
    (yolo_folder / "list.txt").write_text("./images/11.png\nimages/12.png\n./images/13.png\n")
    path = write_yaml(yolo_folder, **values | ({"path": str(yolo_folder)} if "path" in values else {}))
    if values.get("path") == ".":
        path.write_text(path.read_text().replace(str(yolo_folder), "."))
    same(before, read(path))
    monkeypatch.chdir(yolo_folder)
    monkeypatch.setattr(utils, "check_font", lambda _: None)
    theirs = utils.check_det_dataset(str(path))["val"]
    mine = find_labelled_images(path, None, None)
    assert isinstance(mine, YoloData)
    assert [str(source.resolve()) for source in mine.sources] == (theirs if isinstance(theirs, list) else [theirs])


def test_the_classes_of_data_yaml_are_matched_by_name(yolo_folder: Path) -> None:
    path = write_yaml(yolo_folder, names=["green", "red"])
    turned = read(path)
    assert [image.classes.tolist() for image in turned.images] == [[1, 0], [0], []]
    assert turned.category_ids == {1: 0, 0: 1}
    assert "calls class 0 'green', the teacher calls it 'red'; name this file" in refusal(yolo_folder)
    write_yaml(yolo_folder, names=["red", "blue"])
    assert "boxes of classes that the teacher does not know (blue" in refusal(path)
    write_yaml(yolo_folder, names=["red", "green", "never seen"])
    same(read(path), read(yolo_folder))
    write_yaml(yolo_folder, names=["red"])
    assert "class index 1, but" in refusal(path) and "data.yaml names 1 class, 0 to 0" in refusal(path)
    write_yaml(yolo_folder, names=None, nc=3)
    assert "says nc: 3 without names" in refusal(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"names": None}, "does not name its classes"),
        ({"names": ["a", "a"]}, r"two classes of one name \(a\)"),
        ({"names": {1: "a", 2: "b"}}, "numbered from 0"),
        ({"names": "red"}, "names is a list"),
        ({"names": [["a"]]}, "names is a list"),
        ({"names": []}, "numbered from 0"),
        ({"nc": 5}, "says nc: 5, but names 2 classes"),
        ({"nc": "many"}, "nc is the number"),
        ({"path": 3}, "path is the folder"),
        ({"val": {"a": 1}}, "val is a folder of images"),
        ({"val": None}, r"no images for the split 'val' \(it has train\)"),
        ({"val": "nowhere"}, "'nowhere' is not there"),
        ({"val": "x" * 5000}, "is not there"),
        ({"val": "list.txt"}, r"images it lists are not there \(images/none.png\)"),
    ],
)
def test_a_data_yaml_that_says_too_little_is_refused(
    yolo_folder: Path, values: dict[str, object], message: str
) -> None:
    (yolo_folder / "list.txt").write_text("images/none.png\n")
    path = write_yaml(yolo_folder, **values)
    with pytest.raises(InputError, match=rf"(data\.yaml|list\.txt): .*{message}") as caught:
        find_labelled_images(path, None, None).check()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_split_of_data_yaml_is_named(yolo_folder: Path) -> None:
    in_splits(yolo_folder)
    path = write_yaml(yolo_folder, train="images/train", val="images/val")
    assert [image.id for image in read(path).images] == [12, 13]
    assert [image.id for image in read(path, "train").images] == [11]
    assert "for the split 'test'" in refusal(path, "test")


def test_a_list_of_images_is_validation_data(yolo_folder: Path) -> None:
    path = yolo_folder / "val.txt"
    path.write_bytes(b"\xef\xbb\xbf./images/12.png\n\n./images/12.png\nnotes.md\n")
    data = read(path)
    assert [image.id for image in data.images] == [12]
    assert data.remarks == "1 line that names no image; 1 image that is listed again"


def test_given_labels_are_read_where_validation_data_are(yolo_folder: Path) -> None:
    def boxes(path: Path) -> list[list[list[float]]]:
        return [image.boxes.tolist() for image in read_given(path, TEACHER).images]

    labels = yolo_folder / "labels"
    (labels / "classes.txt").write_text("red\ngreen\n")
    (labels / "._11.txt").write_bytes(b"\0\5\26\7")
    flat, digest = boxes(labels), given_digest(labels)
    assert len(flat) == 2
    in_splits(yolo_folder)
    path = write_yaml(yolo_folder, train="images/train", val="images/val")
    assert boxes(yolo_folder) == boxes(labels) == flat
    assert given_digest(labels) != digest, "folders are part of the names"
    assert boxes(path) == flat[:1], "the training images' labels"
    assert boxes(labels / "val") == boxes(yolo_folder / "images" / "val") == flat[1:]
    shutil.rmtree(yolo_folder / "images")
    assert boxes(path) == flat[:1], "labels without their images"
    write_yaml(yolo_folder, names=["green", "red"], train="images/train")
    assert [image.classes.tolist() for image in read_given(path, TEACHER).images] == [[1, 0]]
    with pytest.raises(InputError, match="calls class 0 'green'"):
        read_given(labels, TEACHER)
    check_given(labels)
    check_given(path)


def test_a_byte_order_mark_is_no_part_of_labels(yolo_folder: Path, coco_file: Path, voc_folder: Path) -> None:
    for file in (coco_file, *voc_folder.rglob("*.xml"), *voc_folder.rglob("*.txt")):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(read_given(coco_file, TEACHER).images) == 2
    assert len(read(voc_folder).images) == 2


@pytest.mark.parametrize("name", ["images/11.png", "images\\11.png", "sub/11.png", "sub\\11.png"])
def test_file_names_of_other_tools_are_found(
    instances: dict[str, list[dict[str, object]]], write_coco: Callable[[object], Path], name: str
) -> None:
    instances["images"][0]["file_name"] = name
    path = write_coco(instances)
    if "sub" in name:
        (path.parent / "images" / "sub").mkdir()
        (path.parent / "images" / "11.png").rename(path.parent / "images" / "sub" / "11.png")
    assert [image.id for image in read(path).images] == [11, 12, 13]
    assert CocoData(path, path.parent / "images").digest()


def test_a_coco_file_among_its_images(coco_file: Path) -> None:
    before = read(coco_file)
    moved = coco_file.rename(coco_file.parent / "images" / "_annotations.coco.json")
    same(before, read(moved))
    same(before, read(moved.parent))
    assert find_labelled_images(moved.parent, None, None) == CocoData(moved, moved.parent)


def test_a_heading_of_the_same_name_as_a_class_is_no_class(
    instances: dict[str, list[dict[str, object]]], write_coco: Callable[[object], Path]
) -> None:
    instances["categories"].insert(0, {"id": 0, "name": "red", "supercategory": "none"})
    assert read(write_coco(instances)).category_ids == {0: 7, 1: 3}


def test_all_crowd_is_said(instances: dict[str, list[dict[str, object]]], write_coco: Callable[[object], Path]) -> None:
    for annotation in instances["annotations"]:
        annotation["iscrowd"] = 1
    path = write_coco(instances)
    assert "all 3 are crowd regions (iscrowd: 1)" in refusal(path)
    given = read_given(path, TEACHER)
    assert (given.images, given.left_out) == ([], ("3 crowd regions",))


@pytest.mark.parametrize("names", [("red", "green", "red"), ("red", "green", "green")])
def test_a_teacher_with_two_classes_of_one_name_is_refused(
    yolo_folder: Path, coco_file: Path, voc_folder: Path, names: tuple[str, ...]
) -> None:
    for path in (voc_folder, coco_file):
        with pytest.raises(InputError, match="more than one class of one name"):
            read_given(path, names)


def test_names_as_long_as_books_make_no_long_line(
    instances: dict[str, list[dict[str, object]]], write_coco: Callable[[object], Path]
) -> None:
    long = "x" * 10**7
    instances["categories"][0]["name"] = long
    assert "boxes of categories" in refusal(write_coco(instances))
    instances["categories"][1]["name"] = long
    assert "occur more than once" in refusal(write_coco(instances))
    instances["categories"][0]["name"], instances["categories"][1]["name"] = "green", "red"
    instances["images"][0]["file_name"] = "y" * 5000
    assert "images it names are not in" in refusal(write_coco(instances))


def test_a_pipe_is_no_file_to_wait_for(voc_folder: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "a.json"
    os.mkfifo(pipe)
    refusal(pipe)
    for name in ("a.yaml", "a.txt"):
        os.mkfifo(tmp_path / name)
        refusal(tmp_path / name)
    with pytest.raises(InputError, match="not a file"):
        given_digest(tmp_path)
    (voc_folder / "JPEGImages" / "11.png").unlink()
    os.mkfifo(voc_folder / "JPEGImages" / "11.png")
    assert "not a file" in refusal(voc_folder)


def test_small_images_are_left_out_as_the_library_does(yolo_folder: Path) -> None:
    Image.new("RGB", (9, 40)).save(yolo_folder / "images" / "14.png")
    data = read(yolo_folder)
    assert len(data.images) == 3 and "1 image below 10 pixels" in data.remarks


@pytest.mark.parametrize("suffix", ["heic", "HEIF", "dng"])
def test_formats_that_need_more_are_refused_by_name(yolo_folder: Path, suffix: str) -> None:
    (yolo_folder / "images" / f"a.{suffix}").write_bytes(b"\0\0\0\x18ftypheic")
    assert f"(a.{suffix}); convert them to JPEG or PNG" in refusal(yolo_folder)


def test_a_container_is_shown_all_that_is_read(yolo_folder: Path) -> None:
    in_splits(yolo_folder)
    images, labels = yolo_folder / "images" / "val", yolo_folder / "labels" / "val"
    assert folders_read(yolo_folder) == [yolo_folder]
    assert folders_read(images) == [images, labels]
    path = write_yaml(yolo_folder, train="images/none", val="images/val")
    assert folders_read(path) == [path, images, labels]


BEFORE = {
    "coco": (
        "9cf24356213ffd63b9fc357305089a142457b30a1b6f526366573b4aa638fdf8",
        "4d2d8cca36cb06272e51b505df11dfdba3c6c7ce45c4284d73c47dfd62c46e0b",
    ),
    "yolo": (
        "ef0f87641d889d2fe6ac6c612c817a09777c1c9d62a71c6b3732936e0deba9c8",
        "81e10f91debaf6580f055880002daf81860f5862bed83e145063b72460ff918d",
    ),
}
"""Digest of the data, and sha256 of boxes, classes and crowd marks as read before there was one reader a format."""


@pytest.mark.parametrize("layout", BEFORE)
def test_real_images_are_read_as_ever(coco_val: Path, layout: str) -> None:
    data = YoloData(coco_val) if layout == "yolo" else find_labelled_images(coco_val, None, None)
    read = data.read(own_names(coco_val / "instances.json"))
    assert (read.format, len(read.images), read.boxes) == (layout, 128, 898)
    labels = hashlib.sha256()
    for image in read.images:
        labels.update(image.boxes.tobytes() + image.classes.tobytes() + image.crowd.tobytes())
    assert (data.digest(), labels.hexdigest()) == BEFORE[layout]
