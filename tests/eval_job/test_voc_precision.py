"""AP50 of Pascal VOC against cases computed by hand."""

import numpy as np
import pytest
import torch

from detectors.detections import Detections
from eval_job.voc_precision import all_point_precision, eleven_point_precision, voc_precision

A, B, C, HARD = [0.0, 0, 10, 10], [20.0, 0, 30, 10], [40.0, 0, 50, 10], [60.0, 0, 70, 10]
NOWHERE = [80.0, 80, 90, 90]


def found(*scored: tuple[list[float], float]) -> Detections:
    boxes, scores = zip(*scored, strict=True)
    return Detections.of(list(boxes), [0] * len(boxes), list(scores))


def measure(
    truth: list[Detections], predictions: list[Detections], difficult: list[list[bool]]
) -> tuple[float, float] | None:
    measured = voc_precision(truth, predictions, ("thing", "other"), difficult)
    return (measured.eleven_point, measured.all_point) if measured else None


def test_a_case_computed_by_hand() -> None:
    """Right, wrong, on a difficult object, right, again on the first object: 3 objects to find.

    Recall 1/3, 1/3, 2/3, 2/3 and precision 1, 1/2, 2/3, 1/2. At 11 points: 1 for recall 0 to 0.3, 2/3 for 0.4 to 0.6,
    0 beyond: 6 / 11. The area: 1/3 · 1 + 1/3 · 2/3 = 5/9.
    """
    truth = [Detections.of([A, B, C, HARD], [0, 0, 0, 0])]
    predictions = [found((A, 0.9), (NOWHERE, 0.8), (HARD, 0.7), (B, 0.6), (A, 0.5))]
    difficult = [[False, False, False, True]]
    assert measure(truth, predictions, difficult) == pytest.approx((6 / 11, 5 / 9))


def test_the_order_is_over_all_images() -> None:
    """The same case in two images, detections in any order."""
    truth = [Detections.of([A, B], [0, 0]), Detections.of([C, HARD], [0, 0])]
    predictions = [found((A, 0.5), (B, 0.6), (A, 0.9)), found((HARD, 0.7), (NOWHERE, 0.8))]
    assert measure(truth, predictions, [[False, False], [False, True]]) == pytest.approx((6 / 11, 5 / 9))


def test_a_difficult_object_neither_counts_nor_hurts() -> None:
    truth, easy = [Detections.of([A, HARD], [0, 0])], [[False, True]]
    for more in ([], [(HARD, 0.95)], [(HARD, 0.95), (HARD, 0.94)]):
        assert measure(truth, [found((A, 0.9), *more)], easy) == pytest.approx((1, 1))
    assert measure(truth, [found((A, 0.9))], [[False, False]]) == pytest.approx((6 / 11, 0.5)), "it is one to find"
    assert measure(truth, [found((A, 0.9))], [[True, True]]) is None, "nothing is left to find"


def test_a_detection_belongs_to_the_object_it_overlaps_most() -> None:
    """COCO would let the second detection find the object that is free; the development kit calls it wrong."""
    near, middle = [0.0, 0, 10, 10], [0.0, 0, 10, 9]
    truth = [Detections.of([near, [0.0, 0, 10, 6]], [0, 0])]
    assert measure(truth, [found((near, 0.9), (middle, 0.8))], [[False, False]]) == pytest.approx((6 / 11, 0.5))


def test_overlap_must_reach_one_half() -> None:
    truth = [Detections.of([A], [0])]
    assert measure(truth, [found(([0.0, 0, 10, 5], 0.9))], [[False]]) == pytest.approx((1, 1))
    assert measure(truth, [found(([0.0, 0, 10, 4.9], 0.9))], [[False]]) == pytest.approx((0, 0))


def test_classes_without_objects_do_not_count_and_no_detection_is_zero() -> None:
    truth = [Detections.of([A], [0])]
    assert measure(truth, [Detections.of([B], [1])], [[False]]) == pytest.approx((0, 0))
    both = voc_precision(
        [Detections.of([A, B], [0, 1])], [Detections.of([A], [0])], ("thing", "other"), [[False, False]]
    )
    assert both is not None
    assert both.per_class == {"thing": 1.0, "other": 0.0}
    assert both.all_point == 0.5


def test_all_points_equal_the_area_that_ultralytics_computes() -> None:
    """Its `compute_ap` has the continuous definition as an option; ours must agree on any curve."""
    from ultralytics.utils import metrics

    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        hits = (torch.rand(50, generator=generator) < 0.6).double().cumsum(0).numpy()
        recall, precision = hits / 60, hits / np.arange(1, 51)
        r = np.concatenate(([0.0], recall, [1.0]))
        p = np.flip(np.maximum.accumulate(np.flip(np.concatenate(([1.0], precision, [0.0])))))
        steps = np.where(r[1:] != r[:-1])[0]
        expected = np.sum((r[steps + 1] - r[steps]) * p[steps + 1])
        assert all_point_precision(recall, precision) == pytest.approx(expected)
        interpolated, _, _ = metrics.compute_ap(recall, precision)
        assert all_point_precision(recall, precision) == pytest.approx(interpolated, abs=0.02)


def test_recall_levels_that_are_reached_exactly_count() -> None:
    """Three of ten objects: recall 0.3 is a level, whatever binary fractions make of it; 4 levels of 11."""
    recall, precision = np.array([0.1, 0.2, 0.3]), np.ones(3)
    assert eleven_point_precision(recall, precision) == pytest.approx(4 / 11)
