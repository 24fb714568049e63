import base64
import io
import re
from typing import Any

import pytest
from PIL import Image

from eval_job.report.pictures import MAX_TILES, calibration_tiles, checked_labels, comparisons, spoken, unmatched
from schemas.evaluation import SampleBox
from schemas.layer_study import SetCheck, SetImage
from stages.shards import CalibrationSet, open_calibration_set

CAT = SampleBox(bbox=(10.0, 10.0, 20.0, 20.0), class_name="cat", score=0.9)


def moved(by: float, class_name: str = "cat") -> SampleBox:
    return SampleBox(bbox=(10.0 + by, 10.0, 20.0, 20.0), class_name=class_name, score=0.5)


def test_a_box_is_matched_by_one_of_its_class_that_overlaps_it_by_half() -> None:
    assert unmatched([CAT], [moved(5)]) == set()  # IoU 0.6
    assert unmatched([CAT], [moved(8)]) == {0}  # IoU 0.43
    assert unmatched([CAT], [moved(0, "dog")]) == {0}
    assert unmatched([CAT], []) == {0}


def test_one_box_matches_only_one_other() -> None:
    assert unmatched([CAT, moved(1)], [moved(0)]) == {1}


def test_boxes_without_area_match_nothing() -> None:
    point = SampleBox(bbox=(10.0, 10.0, 0.0, 0.0), class_name="cat", score=0.5)
    assert unmatched([point], [point]) == {0}
    assert unmatched([CAT], [point]) == {0}


def test_boxes_in_words() -> None:
    assert spoken([CAT, moved(0, "dog"), CAT]) == "2 cat, 1 dog"
    assert spoken([]) == "no boxes"


def test_a_box_that_only_one_model_finds_is_dashed_there(run: Any) -> None:
    (comparison,) = comparisons(run.report.samples, run.evaluation, ["full precision", "QAT W4A8 deploy"]) or []

    headings = [heading for heading, _, _ in comparison.panels]
    dashes = [str(picture).count("dashed") for _, picture, _ in comparison.panels]
    assert headings == ["labels", "full precision", "QAT W4A8 deploy"]
    assert dashes == [0, 1, 0], "the student lost the dog"


def test_the_image_itself_is_there_once(run: Any) -> None:
    (comparison,) = comparisons(run.report.samples, run.evaluation, ["full precision", "QAT W4A8 deploy"]) or []

    assert "data:image/jpeg" in comparison.image
    assert all("data:" not in picture and '<use href="#sample-1"/>' in picture for _, picture, _ in comparison.panels)


def test_build_of_boxes_stay_inside_the_picture(run: Any) -> None:
    edge = SampleBox(bbox=(75.0, 0.0, 5.0, 5.0), class_name="a class with a long name", score=0.5)
    samples = [run.report.samples[0].model_copy(update={"labels": (edge,), "detections": {}})]
    (comparison,) = comparisons(samples, run.evaluation, []) or []

    (plate,) = re.findall(
        r'class="tag" style="[^"]*" x="([\d.-]+)" y="([\d.-]+)" width="([\d.]+)"', str(comparison.panels[0][1])
    )
    x, y, width = map(float, plate)
    assert x >= 0 and y >= 0
    assert x + width <= 80.1


@pytest.mark.parametrize("copies", [1, 30])
def test_tiles_are_spread_over_the_set(run: Any, copies: int) -> None:
    opened = open_calibration_set(run.calibration_set)
    tiles = calibration_tiles(CalibrationSet(opened.folder, opened.manifest, opened.samples * copies))

    assert len(tiles) == min(6 * copies, MAX_TILES)
    content = re.search(r"base64,([^\"]+)", str(tiles[0].picture))
    assert content
    with Image.open(io.BytesIO(base64.b64decode(content[1]))) as image:
        assert image.size == (32, 32)
    assert 'class="box"' in tiles[0].picture
    assert [tile.index for tile in tiles] == sorted({tile.index for tile in tiles})


def test_labels_that_fail_are_dashed_and_their_images_shown(run: Any) -> None:
    opened = open_calibration_set(run.calibration_set)
    many = CalibrationSet(opened.folder, opened.manifest, opened.samples * 100)
    images = tuple(
        SetImage(index=n, labels=1, found=0.0 if n in (1, 2, 599) else 1.0, failed=(0,) if n in (1, 2, 599) else ())
        for n in range(600)
    )
    check = SetCheck(set_digest=opened.manifest.digest, confidence=0.25, images=images)
    tiles = {tile.index: tile for tile in calibration_tiles(many, check)}

    assert {1, 2, 599} <= tiles.keys() and len(tiles) == MAX_TILES
    assert tiles[1].failed == 1 and 'class="alone"' in tiles[1].picture and "1 not seen" in tiles[1].picture
    other = next(tile for tile in tiles.values() if not tile.failed)
    assert 'class="alone"' not in other.picture and other.found == 1.0
    counted = checked_labels(check, opened.manifest.digest)
    assert counted is not None and (counted.labels, counted.seen) == (600, 597)
    assert checked_labels(check, "another") is None
    assert all(tile.found is None for tile in calibration_tiles(many, check.model_copy(update={"set_digest": "x"})))


def test_images_with_most_boxes_that_one_model_lacks_come_first(run: Any) -> None:
    sample = run.report.samples[0]
    same = sample.model_copy(update={"detections": {name: sample.labels for name in sample.detections}})
    found = comparisons([same, sample], run.evaluation, ["full precision", "QAT W4A8 deploy"]) or []
    assert [(each.number, each.differing) for each in found] == [(2, 1), (1, 0)]
    assert "lost by the student: 1 dog" in found[0].panels[1][2]
