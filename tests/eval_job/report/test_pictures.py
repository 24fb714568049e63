import base64
import io
import re
from typing import Any

import pytest
from PIL import Image

from eval_job.report.pictures import MAX_TILES, calibration_tiles, comparisons, spoken, unmatched
from schemas.evaluation import SampleBox
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
    content = re.search(r"base64,([^\"]+)", str(tiles[0]))
    assert content
    with Image.open(io.BytesIO(base64.b64decode(content[1]))) as image:
        assert image.size == (32, 32)
    assert 'class="box"' in tiles[0]
