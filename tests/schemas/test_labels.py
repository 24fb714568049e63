from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.calibration_set import AREA_EDGES, POSITION_CELLS, LabelStatistics
from schemas.labels import BoxLabel, ImageLabels, LabelOrigin


def box(*bbox: float, category: int = 0, origin: LabelOrigin = LabelOrigin.SAMPLED) -> BoxLabel:
    return BoxLabel(bbox=bbox, category_id=category, origin=origin)  # type: ignore[arg-type]


@st.composite
def image_labels(draw: Any) -> ImageLabels:
    width, height = draw(st.integers(1, 2000)), draw(st.integers(1, 2000))
    share = st.floats(0.001, 1)
    boxes = []
    for _ in range(draw(st.integers(0, 6))):
        w, h = draw(share) * width, draw(share) * height
        x, y = draw(st.floats(0, 1)) * (width - w), draw(st.floats(0, 1)) * (height - h)
        boxes.append(box(x, y, w, h, category=draw(st.integers(0, 2)), origin=draw(st.sampled_from(LabelOrigin))))
    return ImageLabels(width=width, height=height, boxes=tuple(boxes))


@given(image_labels())
def test_labels_come_back_from_their_json_exactly(labels):
    assert ImageLabels.model_validate_json(labels.to_json()) == labels


@given(st.lists(image_labels(), max_size=4))
def test_every_histogram_counts_every_box_once(labels):
    statistics = LabelStatistics.of(labels, ("a", "b", "c"))
    boxes = sum(len(image.boxes) for image in labels)
    assert statistics.boxes == boxes
    assert statistics.images == len(labels)
    assert sum(statistics.class_histogram.values()) == boxes
    assert sum(statistics.area_histogram) == boxes
    assert sum(map(sum, statistics.position_histogram)) == boxes
    assert sum(statistics.origin_histogram.values()) == boxes


@given(st.floats(-20, 30), st.floats(-20, 30), st.floats(0.1, 30), st.floats(0.1, 30))
def test_a_box_is_refused_exactly_where_it_leaves_the_image_by_over_half_a_pixel(x, y, w, h):
    inside = x >= -0.5 and y >= -0.5 and x + w <= 10.5 and y + h <= 20.5
    try:
        ImageLabels(width=10, height=20, boxes=(box(x, y, w, h),))
    except ValidationError as error:
        assert not inside
        assert "leaves the 10 x 20 image" in str(error)
    else:
        assert inside


@pytest.mark.parametrize("bbox", [(0, 0, 0, 5), (0, 0, 5, 0), (5, 5, -1, 2)])
def test_a_box_without_area_is_refused(bbox):
    with pytest.raises(ValidationError, match="has no area"):
        box(*(float(value) for value in bbox))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9])
def test_a_coordinate_that_is_no_place_is_refused(value):
    with pytest.raises(ValidationError):
        box(value, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "change", [{"score": 1.1}, {"score": float("nan")}, {"category_id": -1}, {"origin": "guessed"}]
)
def test_a_label_out_of_range_is_refused(change):
    with pytest.raises(ValidationError):
        BoxLabel.model_validate({"bbox": (0.0, 0.0, 1.0, 1.0), "category_id": 0, "origin": LabelOrigin.GIVEN} | change)


def test_statistics_of_a_case_counted_by_hand():
    labels = [
        ImageLabels(
            width=100,
            height=100,
            boxes=(
                box(0, 0, 10, 10, category=1),  # share 0.01: second bin; centre (5, 5): cell 0, 0
                box(
                    40, 70, 20, 20, category=1, origin=LabelOrigin.RELABELLED
                ),  # 0.04: third; centre (50, 80): row 3, column 2
                box(0, 0, 100, 100),  # 1: last; centre (50, 50): row 2, column 2
            ),
        ),
        ImageLabels(width=200, height=100, boxes=(box(149, 0, 2, 2, category=1),)),  # 0.0002: first; row 0, column 3
        ImageLabels(width=50, height=50, boxes=()),
    ]
    statistics = LabelStatistics.of(labels, ("cat", "dog", "never"))
    assert (statistics.images, statistics.boxes) == (3, 4)
    assert statistics.boxes_per_image == pytest.approx(4 / 3)
    assert list(statistics.class_histogram.items()) == [("dog", 3), ("cat", 1)]
    assert statistics.area_histogram == (1, 1, 1, 0, 0, 1)
    assert statistics.position_histogram == ((1, 0, 0, 1), (0, 0, 0, 0), (0, 0, 1, 0), (0, 0, 1, 0))
    assert statistics.origin_histogram == {"relabelled": 1, "sampled": 3}


def test_statistics_of_nothing_are_zero_not_nan():
    statistics = LabelStatistics.of([], ())
    assert statistics.boxes_per_image == 0
    assert statistics.area_histogram == (0,) * (len(AREA_EDGES) - 1)
    assert statistics.position_histogram == ((0,) * POSITION_CELLS,) * POSITION_CELLS
