"""Somebody's labels are read exactly, or refused in one line that names the place."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import InputError
from synth_job.given_labels import given_labels_digest, read_given_labels

NAMES = ("disc", "ring", "square")
COCO: dict[str, Any] = {
    "images": [{"id": 7, "width": 100, "height": 50}, {"id": 8, "width": 10, "height": 10}],
    "categories": [{"id": 30, "name": "square"}, {"id": 4, "name": "disc"}],
    "annotations": [
        {"image_id": 7, "category_id": 30, "bbox": [10, 0, 50, 25]},
        {"image_id": 7, "category_id": 4, "bbox": [0, 0, 100, 50]},
        {"image_id": 7, "category_id": 4, "bbox": [5, 5, 0, 10]},
        {"image_id": 7, "category_id": 4, "bbox": [5, 5, 20, 10], "iscrowd": 1},
    ],
}


@pytest.fixture
def coco(tmp_path: Path) -> Callable[..., Path]:
    """Write the COCO file after changing it."""

    def write(change: Callable[[dict[str, Any]], object] = lambda _: None) -> Path:
        values = copy.deepcopy(COCO)
        change(values)
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(values))
        return path

    return write


@pytest.fixture
def yolo(tmp_path: Path) -> Callable[[str], Path]:
    """Write one YOLO label file."""

    def write(text: str) -> Path:
        (tmp_path / "a.txt").write_text(text)
        return tmp_path

    return write


VOC = """<annotation><size><width>100</width><height>50</height></size>
<object><name>square</name><bndbox><xmin>11</xmin><ymin>1</ymin><xmax>60</xmax><ymax>25</ymax></bndbox></object>
<object><name>disc</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>100</xmax><ymax>50</ymax></bndbox></object>
<object><name>disc</name><difficult>1</difficult>
<bndbox><xmin>6</xmin><ymin>6</ymin><xmax>25</xmax><ymax>15</ymax></bndbox></object></annotation>"""


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A VOC folder without images: two annotations, a list that names one of them."""
    for folder in ("Annotations", "ImageSets/Main"):
        (tmp_path / "VOC" / folder).mkdir(parents=True)
    (tmp_path / "VOC/Annotations/000007.xml").write_text(VOC)
    (tmp_path / "VOC/Annotations/000009.xml").write_text(VOC.replace("square", "ring"))
    (tmp_path / "VOC/ImageSets/Main/train.txt").write_text("000007\n")
    return tmp_path / "VOC"


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_given_labels(path, NAMES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_coco_boxes_are_letterboxed_onto_the_unit_square(coco: Callable[..., Path]) -> None:
    (labels,) = read_given_labels(coco(), NAMES)  # the image without boxes, the flat box and the crowd are left out
    assert labels.classes.tolist() == [2, 0]
    assert labels.boxes[0].tolist() == pytest.approx([0.1, 0.25, 0.6, 0.5])
    assert labels.boxes[1].tolist() == pytest.approx([0.0, 0.25, 1.0, 0.75])


def test_coco_boxes_are_cut_at_the_image(coco: Callable[..., Path]) -> None:
    def beyond(values: dict[str, Any]) -> None:
        values["annotations"][0]["bbox"] = [-10, 40, 30, 30]
        values["annotations"][1]["bbox"] = [200, 10, 5, 5]

    (labels,) = read_given_labels(coco(beyond), NAMES)
    assert labels.boxes.tolist() == [pytest.approx([0.0, 0.65, 0.2, 0.75])]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda values: values["annotations"][0].update(image_id=99), "not in its images (99)"),
        (lambda values: values["categories"][0].update(name="zebra"), "zebra"),
        (lambda values: values["annotations"][0].update(category_id=99), "99"),
        (lambda values: values["annotations"][0].update(bbox=[1, 2, 3]), "not a COCO"),
        (lambda values: values["annotations"][0].update(bbox="wide"), "not a COCO"),
        (lambda values: values["annotations"][0].update(bbox=[1, 2, float("nan"), 3]), "finite"),
        (lambda values: values["images"][0].update(width=0), "positive"),
        (lambda values: values["images"][0].pop("height"), "size of image 7"),
        (lambda values: values.pop("categories"), "categories"),
        (lambda values: values.update(annotations=[]), "holds no box"),
        (lambda values: values.update(annotations=[3]), "not a COCO"),
        (lambda values: values.update(images={"7": 1}), "not a COCO"),
    ],
)
def test_a_coco_file_that_is_wrong_is_refused(coco: Callable[..., Path], change: Any, named: str) -> None:
    path = coco(change)
    text = refusal(path)
    assert named in text
    assert str(path) in text


@pytest.mark.parametrize("content", ["", "[]", "3", "{", "\xff", "[" * 100_000])
def test_a_file_that_is_no_coco_json_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "instances.json"
    path.write_bytes(content.encode("latin-1"))
    assert "not a COCO instances file" in refusal(path)


def test_voc_boxes_are_those_of_coco_without_the_difficult_ones(voc: Path, coco: Callable[..., Path]) -> None:
    (labels,) = read_given_labels(voc, NAMES)
    (same,) = read_given_labels(coco(), NAMES)
    assert labels.classes.tolist() == same.classes.tolist()
    assert labels.boxes.tolist() == same.boxes.tolist()


def test_voc_annotations_are_named_by_folder_or_list(voc: Path) -> None:
    split = voc / "ImageSets" / "Main" / "train.txt"
    assert len(read_given_labels(split, NAMES)) == len(read_given_labels(voc, NAMES)) == 1
    assert len(read_given_labels(voc / "Annotations", NAMES)) == 2
    assert given_labels_digest(split) == given_labels_digest(voc) != given_labels_digest(voc / "Annotations")
    split.write_text("000007\n000009\n")
    assert given_labels_digest(split) == given_labels_digest(voc / "Annotations")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("square", "zebra", "zebra"),
        ("<size><width>100</width><height>50</height></size>", "", "does not say the size"),
        ("<width>100<", "<width>0<", "does not say the size"),
        ("<xmax>60<", "<xmax>nan<", "not a Pascal VOC annotation"),
        ("<annotation>", "<!DOCTYPE a><annotation>", "document type"),
    ],
)
def test_a_voc_annotation_that_is_wrong_is_refused(voc: Path, old: str, new: str, named: str) -> None:
    (voc / "Annotations" / "000007.xml").write_text(VOC.replace(old, new))
    assert named in refusal(voc)


def test_yolo_boxes_are_read_line_by_line(yolo: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.txt").write_text("0 0.1 0.1 0.4 0.1")
    first, second = read_given_labels(yolo("1 0.5 0.5 0.2 0.4\n\n2.0 0.25 0.5 0.5 1.0\n"), NAMES)
    assert first.classes.tolist() == [1, 2]
    assert first.boxes[0].tolist() == pytest.approx([0.4, 0.3, 0.6, 0.7])
    assert first.boxes[1].tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0])
    assert second.boxes.tolist() == [pytest.approx([0.0, 0.05, 0.3, 0.15])]


def test_a_yolo_polygon_is_its_bounding_box(yolo: Callable[[str], Path]) -> None:
    (labels,) = read_given_labels(yolo("1 0.1 0.2 0.5 0.3 0.4 0.9"), NAMES)
    assert labels.boxes.tolist() == [pytest.approx([0.1, 0.2, 0.5, 0.9])]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("3 0.5 0.5 0.2 0.2", "class index 3"),
        ("-1 0.5 0.5 0.2 0.2", "class index -1"),
        ("0.5 0.5 0.5 0.2 0.2", "class index 0.5"),
        ("1 0.5 0.5 0.2", "got 4 numbers"),
        ("1 0.5 0.5 0.2 0.2 0.9", "got 6 numbers"),
        ("ring 0.5 0.5 0.2 0.2", "not a number"),
        ("1 50 50 20 20", "shares of the image side"),
        ("1 nan 0.5 0.2 0.2", "shares of the image side"),
        ("nan 0.5 0.5 0.2 0.2", "class index nan"),
        ("1,0.5,0.5,0.2,0.2", "not a number"),
    ],
)
def test_a_yolo_line_that_is_wrong_is_refused_by_number(yolo: Callable[[str], Path], line: str, named: str) -> None:
    text = refusal(yolo(f"1 0.5 0.5 0.2 0.2\n{line}\n"))
    assert named in text
    assert "a.txt, line 2" in text


def test_labels_without_any_box_and_folders_without_labels_are_refused(
    yolo: Callable[[str], Path], tmp_path: Path
) -> None:
    assert "holds no box" in refusal(yolo("\n1 0.5 0.5 0.0 0.2\n"))
    (tmp_path / "empty").mkdir()
    assert "neither" in refusal(tmp_path / "empty")
    assert "neither" in refusal(tmp_path / "none")


def test_a_label_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    assert "a.txt" in refusal(tmp_path)


def test_the_digest_is_that_of_the_content(yolo: Callable[[str], Path], coco: Callable[..., Path]) -> None:
    folder = yolo("1 0.5 0.5 0.2 0.2\n")
    before = given_labels_digest(folder)
    assert given_labels_digest(folder) == before
    (folder / "b.txt").write_text("")
    assert given_labels_digest(folder) != before
    one = given_labels_digest(coco())
    assert given_labels_digest(coco(lambda values: values["annotations"].pop())) != one
