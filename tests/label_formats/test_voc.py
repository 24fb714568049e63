from pathlib import Path

import numpy as np
import pytest

from eval_job.data import find_validation_data
from label_formats.voc import VocData
from schemas.errors import ConfigError, InputError

TEACHER = ("blue", "red", "green")


def test_boxes_hold_their_pixels_and_classes_match_by_name(voc_folder: Path) -> None:
    data = VocData(voc_folder).read(TEACHER)
    first, second = data.images

    assert (data.format, data.boxes, data.without_area) == ("voc", 3, 0)
    np.testing.assert_array_equal(first.boxes, [[4, 8, 24, 24], [40, 2, 56, 26]])
    assert (first.classes.tolist(), second.classes.tolist()) == ([1, 2], [2])
    assert first.crowd.tolist() == [False, True], "the difficult one"
    assert (first.id, first.labelled_size) == (11, (64, 32))
    for image in data.images:  # what is inside a box is drawn, what surrounds it is not
        pixels = image.pixels()
        x1, y1, x2, y2 = image.boxes[0].astype(int)
        assert pixels[y1:y2, x1:x2].any(axis=2).all()
        assert not pixels[y1 - 1 : y2 + 1, x1 - 1].any()
        assert not pixels[y1 - 1 : y2 + 1, x2].any()


def test_a_folder_is_found_by_its_annotations_and_a_list_by_its_place(voc_folder: Path, tmp_path: Path) -> None:
    split = voc_folder / "ImageSets/Main/test.txt"
    for path in (voc_folder, split):
        assert find_validation_data(str(path), None) == VocData(path)
        with pytest.raises(ConfigError, match="images goes with a COCO JSON file only"):
            find_validation_data(str(path), str(tmp_path))


def test_the_only_list_counts_and_of_several_one_must_be_named(voc_folder: Path) -> None:
    assert [file.stem for file in VocData(voc_folder).annotations] == ["11", "12"]

    (voc_folder / "ImageSets/Main/train.txt").write_text("13\n")
    with pytest.raises(InputError, match=r"name one of test.txt, train.txt"):
        VocData(voc_folder).digest()
    one = VocData(voc_folder / "ImageSets/Main/train.txt")
    assert [file.stem for file in one.images] == ["13"]

    for file in (voc_folder / "ImageSets/Main").iterdir():
        file.unlink()
    assert len(VocData(voc_folder).annotations) == 3, "without a list every annotation counts"


def test_a_folder_with_xml_beside_the_images_will_do(voc_folder: Path) -> None:
    mixed = (voc_folder / "JPEGImages").rename(voc_folder / "mixed")
    for file in (voc_folder / "Annotations").iterdir():
        file.rename(mixed / file.name)
    data = find_validation_data(str(mixed), None)
    assert len(data.read(TEACHER).images) == 3


def test_a_missing_image_and_an_unknown_class_are_named(voc_folder: Path) -> None:
    with pytest.raises(InputError, match=r"does not know \(green; the teacher knows red"):
        VocData(voc_folder).read(("red",))
    (voc_folder / "JPEGImages" / "12.png").unlink()
    with pytest.raises(InputError, match=r"without an image in .*JPEGImages \(12\)"):
        VocData(voc_folder).read(TEACHER)


def test_the_digest_follows_images_annotations_and_the_list(voc_folder: Path) -> None:
    before = VocData(voc_folder).digest()
    assert VocData(voc_folder).digest() == before
    seen = {before}
    for name in ("Annotations/11.xml", "JPEGImages/12.png", "ImageSets/Main/test.txt"):
        content = (voc_folder / name).read_bytes()
        (voc_folder / name).write_bytes(b"11" if name.endswith("txt") else content + b"\n")
        seen.add(VocData(voc_folder).digest())
        (voc_folder / name).write_bytes(content)
    assert len(seen) == 4


def test_boxes_without_area_inside_the_image_are_left_out_and_counted(voc_folder: Path) -> None:
    path = voc_folder / "Annotations" / "12.xml"
    path.write_text(path.read_text().replace("<xmin>9<", "<xmin>49<").replace("<xmax>40<", "<xmax>90<"))
    data = VocData(voc_folder).read(TEACHER)
    assert (data.boxes, data.without_area) == (2, 1)
