"""What holds for any labels, found by hypothesis."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from schemas.base import Document
from schemas.calibration_set import CalibrationSetManifest, LabelStatistics, ShardRecord
from schemas.errors import VerificationError
from schemas.labels import BoxLabel, ImageLabels, LabelOrigin
from schemas.student import StudentManifest

CLASSES = ("a", "b", "c")
DOCUMENTS: tuple[type[Document], ...] = (ImageLabels, ShardRecord, CalibrationSetManifest, StudentManifest)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@st.composite
def image_labels(draw: st.DrawFn) -> ImageLabels:
    width, height = draw(st.integers(1, 16_384)), draw(st.integers(1, 16_384))

    def box() -> BoxLabel:
        left, top = (draw(st.floats(-0.5, side * 0.99)) for side in (width, height))
        share = st.floats(1e-6, 1)
        w, h = ((side - max(at, 0)) * draw(share) for side, at in ((width, left), (height, top)))
        return BoxLabel(
            bbox=(left, top, w, h),
            category_id=draw(st.integers(0, len(CLASSES) - 1)),
            score=draw(st.floats(0, 1)),
            origin=draw(st.sampled_from(LabelOrigin)),
        )

    return ImageLabels(width=width, height=height, boxes=tuple(box() for _ in range(draw(st.integers(0, 4)))))


@given(image_labels())
def test_labels_come_back_from_json_to_the_last_digit(labels: ImageLabels) -> None:
    assert ImageLabels.parse(labels.to_json().encode(), "here") == labels


@given(st.lists(image_labels(), max_size=4))
def test_every_histogram_counts_every_box_once(labels: list[ImageLabels]) -> None:
    statistics = LabelStatistics.of(labels, CLASSES)
    boxes = sum(len(image.boxes) for image in labels)
    assert statistics.boxes == boxes and statistics.images == len(labels)
    for counts in (
        statistics.class_histogram.values(),
        statistics.origin_histogram.values(),
        statistics.area_histogram,
        [count for row in statistics.position_histogram for count in row],
    ):
        assert sum(counts) == boxes
    assert LabelStatistics.model_validate_json(statistics.to_json()) == statistics


@given(st.floats(), st.floats(), st.floats(), st.floats())
def test_a_box_is_taken_exactly_when_it_lies_inside_and_has_area(x: float, y: float, w: float, h: float) -> None:
    inside = (
        all(math.isfinite(value) for value in (x, y, w, h))
        and min(w, h) > 0
        and min(x, y) >= -0.5
        and max(x + w, y + h) <= 32.5
    )
    box = {"bbox": [x, y, w, h], "category_id": 0, "origin": "given"}
    text = json.dumps({"width": 32, "height": 32, "boxes": [box]}).encode()
    try:
        ImageLabels.parse(text, "here")
    except VerificationError:
        assert not inside
    else:
        assert inside


@given(st.sampled_from(DOCUMENTS), st.binary(max_size=200) | plain.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_document_or_a_verification_error(document: type[Document], content: bytes) -> None:
    try:
        document.parse(content, "here")
    except VerificationError as error:
        assert "\n" not in str(error)
