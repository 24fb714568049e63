from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from label_formats.coco import CocoData
from label_formats.images import ValidationSet
from schemas.errors import InputError

TEACHER = ("red", "green")
Values = dict[str, Any]
Write = Callable[[Any], Path]


def read(path: Path, class_names: tuple[str, ...] = TEACHER) -> ValidationSet:
    return CocoData(path, path.parent / "images").read(class_names)


def test_boxes_are_corners_in_pixels_and_categories_match_by_name(coco_file: Path) -> None:
    first, second, third = read(coco_file).images

    np.testing.assert_array_equal(first.boxes, [[4, 8, 24, 24], [40, 2, 56, 26]])
    assert first.classes.tolist() == [0, 1]
    assert first.labelled_size == (64, 32)
    assert second.classes.tolist() == [1]
    assert len(third.boxes) == 0, "an image without annotations is still looked at"


def test_results_are_written_in_the_ids_of_the_file(coco_file: Path) -> None:
    data = read(coco_file, ("another", *TEACHER))

    assert [image.id for image in data.images] == [11, 12, 13]
    assert data.category_ids == {1: 7, 2: 3}


def test_crowd_regions_are_marked(instances: Values, write_coco: Write) -> None:
    instances["annotations"][1]["iscrowd"] = 1

    assert read(write_coco(instances)).images[0].crowd.tolist() == [False, True]


def test_boxes_without_area_are_left_out_and_counted(instances: Values, write_coco: Write) -> None:
    instances["annotations"][1]["bbox"] = [10, 10, 0, 5]
    data = read(write_coco(instances))

    assert (data.boxes, data.without_area) == (2, 1)


def test_a_category_without_boxes_may_be_unknown(instances: Values, write_coco: Write) -> None:
    instances["categories"].append({"id": 99, "name": "blue"})

    assert read(write_coco(instances)).category_ids == {0: 7, 1: 3}


def test_boxes_of_unknown_categories_are_refused_naming_five(instances: Values, write_coco: Write) -> None:
    for number in range(7):
        instances["categories"].append({"id": 100 + number, "name": f"unknown{number}"})
        instances["annotations"].append({"image_id": 11, "category_id": 100 + number, "bbox": [0, 0, 5, 5]})

    with pytest.raises(InputError, match=r"unknown0, .*unknown4 and 2 more; the teacher knows red, green.*rename"):
        read(write_coco(instances))


@pytest.mark.parametrize(
    ("key", "message"),
    [("category_id", r"category ids .*categories \(555\)"), ("image_id", r"image ids .*images \(555\)")],
)
def test_annotations_of_unlisted_ids_are_refused(instances: Values, write_coco: Write, key: str, message: str) -> None:
    instances["annotations"][0][key] = 555

    with pytest.raises(InputError, match=message):
        read(write_coco(instances))


@pytest.mark.parametrize(
    ("kind", "change"), [("images", {"id": 11}), ("categories", {"id": 7}), ("categories", {"name": "red"})]
)
def test_repeated_ids_and_names_are_refused(instances: Values, write_coco: Write, kind: str, change: Values) -> None:
    instances[kind][0] |= change
    instances[kind][1] |= change

    with pytest.raises(InputError, match="occur more than once"):
        read(write_coco(instances))


@pytest.mark.parametrize(
    ("bbox", "message"),
    [([1, 2, 3], "annotations.0.bbox"), ([1, 2, 3, "x"], "annotations.0.bbox.3"), ([1, 2, 3, float("nan")], "bbox.3")],
)
def test_a_box_that_is_not_four_numbers_is_refused(
    instances: Values, write_coco: Write, bbox: list[Any], message: str
) -> None:
    instances["annotations"][0]["bbox"] = bbox

    with pytest.raises(InputError, match=message):
        read(write_coco(instances))


def test_malformed_json_is_refused_in_one_line(coco_file: Path) -> None:
    coco_file.write_text('{"images": [', encoding="utf-8")

    with pytest.raises(InputError, match=r"instances.json: not a COCO instances file .*Invalid JSON") as error:
        read(coco_file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("values", [[], {"images": [], "annotations": []}, {"images": 3}])
def test_json_of_another_shape_is_refused(write_coco: Write, values: object) -> None:
    with pytest.raises(InputError, match="not a COCO instances file"):
        read(write_coco(values))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "nowhere.json")


def test_no_image_is_refused(write_coco: Write) -> None:
    with pytest.raises(InputError, match="holds no image"):
        read(write_coco({"images": [], "annotations": [], "categories": []}))


@pytest.mark.parametrize("crowd", [False, True])
def test_no_box_to_find_is_refused(instances: Values, write_coco: Write, crowd: bool) -> None:
    instances["annotations"] = [a | {"iscrowd": 1} for a in instances["annotations"]] if crowd else []

    with pytest.raises(InputError, match="holds no box"):
        read(write_coco(instances))


def test_an_image_that_is_not_there_is_named(coco_file: Path) -> None:
    (coco_file.parent / "images" / "12.png").unlink()

    with pytest.raises(InputError, match=r"not in .*images \(12.png\); set images"):
        CocoData(coco_file, coco_file.parent / "images").digest()


def test_the_digest_follows_content_not_location(coco_file: Path, tmp_path: Path) -> None:
    def digest(folder: Path) -> str:
        return CocoData(folder / "instances.json", folder / "images").digest()

    before = digest(coco_file.parent)
    moved = coco_file.parent.rename(tmp_path / "moved")
    assert digest(moved) == before

    picture = moved / "images" / "11.png"
    content = picture.read_bytes()
    picture.write_bytes(content + b"\0")
    assert digest(moved) != before

    picture.write_bytes(content)
    labels = moved / "instances.json"
    labels.write_text(labels.read_text().replace("20", "21", 1))
    assert digest(moved) != before
