import pytest

from eval_job.report.label_comparison import MAX_CLASSES, compare_labels
from schemas.calibration_set import LabelStatistics


def statistics(classes: dict[str, int]) -> LabelStatistics:
    boxes = sum(classes.values())
    return LabelStatistics(
        images=10, boxes=boxes, boxes_per_image=boxes / 10, class_histogram=classes,
        area_histogram=(0, 0, boxes, 0, 0, 0), position_histogram=((boxes, 0, 0, 0), *[(0, 0, 0, 0)] * 3),
        origin_histogram={},
    )  # fmt: skip


def test_classes_are_compared_as_shares_of_all_boxes() -> None:
    compared = compare_labels(statistics({"cat": 3, "dog": 1}), statistics({"dog": 90, "bird": 10}))

    rows = {row.name: (row.in_set, row.in_detections) for row in compared.classes}
    assert rows == {"dog": (0.25, pytest.approx(0.9)), "cat": (0.75, 0.0), "bird": (0.0, pytest.approx(0.1))}
    assert [row.name for row in compared.classes] == ["dog", "cat", "bird"]
    assert compared.largest == pytest.approx(0.9)


def test_without_detections_the_set_stands_alone() -> None:
    compared = compare_labels(statistics({"cat": 3}), None)

    assert [row.in_detections for row in compared.classes] == [None]
    assert len(compared.positions) == 1


def test_a_set_without_boxes_has_nothing_to_show_and_does_not_fail() -> None:
    compared = compare_labels(statistics({}), statistics({}))

    assert compared.classes == [] and compared.largest == 1


def test_rare_classes_are_counted_not_listed() -> None:
    compared = compare_labels(statistics({f"class {n:02d}": 100 - n for n in range(80)}), None)

    assert len(compared.classes) == MAX_CLASSES
    assert compared.more_classes == 80 - MAX_CLASSES
