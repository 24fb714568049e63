import pytest

from detectors.average_precision import average_precision, coco_results, evaluate_boxes
from detectors.detections import Detections

CLASSES = ("cat", "dog")
LEFT, RIGHT, ELSEWHERE = [0.0, 0.0, 100.0, 100.0], [200.0, 0.0, 300.0, 100.0], [0.0, 200.0, 100.0, 300.0]
NOTHING = Detections.of([], [])


def test_a_hand_computed_curve_gives_its_area() -> None:
    truth = [Detections.of([LEFT, RIGHT], [0, 0])]
    predictions = [Detections.of([LEFT, ELSEWHERE, RIGHT], [0, 0, 0], [0.9, 0.8, 0.7])]

    precision, per_class = average_precision(truth, predictions, CLASSES)

    # Precision is 1 up to recall 0.5 (51 of COCO's 101 points), then 2/3 (50 points).
    expected = (51 + 50 * 2 / 3) / 101
    assert precision.map50_95 == pytest.approx(expected)
    assert precision.map50 == pytest.approx(expected)
    assert per_class == {"cat": pytest.approx(expected)}


def test_the_curve_is_precision_at_101_recall_levels() -> None:
    truth = [Detections.of([LEFT, RIGHT], [0, 0])]
    predictions = [Detections.of([LEFT, ELSEWHERE, RIGHT], [0, 0, 0], [0.9, 0.8, 0.7])]

    curve = evaluate_boxes(truth, predictions, CLASSES).curve

    assert curve.iou50 == pytest.approx([1.0] * 51 + [2 / 3] * 50)
    assert curve.iou50_95 == pytest.approx(curve.iou50), "these boxes fit at every threshold"


def test_the_curve_is_a_mean_over_classes_with_labels_and_over_thresholds() -> None:
    truth = [Detections.of([LEFT, RIGHT], [0, 1])]
    found = [Detections.of([[0.0, 0.0, 72.0, 100.0]], [0], [0.9])]  # IoU 0.72: right at five of ten thresholds

    evaluation = evaluate_boxes(truth, found, (*CLASSES, "never seen"))

    assert evaluation.curve.iou50 == pytest.approx([0.5] * 101)
    assert evaluation.curve.iou50_95 == pytest.approx([0.25] * 101)
    assert sum(evaluation.curve.iou50_95) / 101 == pytest.approx(evaluation.summary.map50_95)


def test_finding_nothing_gives_a_flat_curve() -> None:
    assert set(evaluate_boxes([Detections.of([LEFT], [0])], [NOTHING], CLASSES).curve.iou50) == {0.0}


def test_an_overlap_of_0_72_counts_at_five_of_ten_thresholds() -> None:
    precision, _ = average_precision(
        [Detections.of([LEFT], [0])], [Detections.of([[0.0, 0.0, 72.0, 100.0]], [0], [0.9])], CLASSES
    )

    assert precision.map50 == pytest.approx(1)
    assert precision.map75 == pytest.approx(0)
    assert precision.map50_95 == pytest.approx(0.5)


def test_the_mean_is_over_classes_with_labels() -> None:
    truth = [Detections.of([LEFT, RIGHT], [0, 1])]
    precision, per_class = average_precision(truth, [Detections.of([LEFT], [0], [0.9])], (*CLASSES, "never seen"))

    assert per_class == {"cat": pytest.approx(1), "dog": pytest.approx(0)}
    assert precision.map50_95 == pytest.approx(0.5)


def test_sizes_that_do_not_occur_are_minus_one() -> None:
    precision, _ = average_precision([Detections.of([LEFT], [0])], [Detections.of([LEFT], [0], [0.9])], CLASSES)

    assert (precision.map_small, precision.map_medium, precision.map_large) == (-1, -1, pytest.approx(1))


def test_a_crowd_region_is_neither_found_nor_missed() -> None:
    truth = [Detections.of([LEFT, RIGHT], [0, 0])]
    predictions = [Detections.of([[210.0, 10.0, 240.0, 40.0], LEFT], [0, 0], [0.9, 0.8])]

    counted, _ = average_precision(truth, predictions, CLASSES)
    ignored, _ = average_precision(truth, predictions, CLASSES, crowd=[[False, True]])

    assert counted.map50_95 < 0.5
    assert ignored.map50_95 == pytest.approx(1)


def test_a_class_of_crowd_regions_alone_has_no_precision() -> None:
    truth = [Detections.of([LEFT, RIGHT], [0, 1])]
    _, per_class = average_precision(truth, [Detections.of([LEFT], [0], [0.9])], CLASSES, crowd=[[False, True]])

    assert per_class == {"cat": pytest.approx(1)}


def test_finding_nothing_is_zero() -> None:
    precision, per_class = average_precision([Detections.of([LEFT], [0]), NOTHING], [NOTHING, NOTHING], CLASSES)

    assert precision.map50_95 == 0
    assert per_class == {"cat": 0}


def test_false_positives_on_images_without_labels_count() -> None:
    truth = [Detections.of([LEFT], [0]), NOTHING]
    predictions = [Detections.of([LEFT], [0], [0.8]), Detections.of([LEFT], [0], [0.9])]

    assert average_precision(truth, predictions, CLASSES)[0].map50_95 == pytest.approx(0.5)


def test_results_carry_the_ids_of_the_data() -> None:
    results = coco_results([NOTHING, Detections.of([RIGHT], [1], [0.5])], [10, 11], [7, 3])

    assert results == [{"image_id": 11, "category_id": 3, "bbox": [200.0, 0.0, 100.0, 100.0], "score": 0.5}]
