import numpy as np
import pytest
import torch

from detectors.average_precision import BoxEvaluation, evaluate_boxes
from detectors.detections import Detections
from eval_job import bootstrap
from eval_job.bootstrap import RESAMPLES, interval, resampled_precision, weighted_precision

CLASSES = ("cat", "dog", "never seen")
IMAGES = 12


def scene(seed: int) -> tuple[Detections, Detections, list[bool]]:
    """Labels, shifted and scored detections with some false ones, and which labels are crowd regions."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(5, 2, generator=generator) * 300
    boxes = torch.cat((corners, corners + 40 + 60 * torch.rand(5, 2, generator=generator)), dim=1)
    classes = torch.randint(2, (5,), generator=generator)
    found = boxes + 5 * torch.randn(5, 4, generator=generator)
    false = boxes.flip(0) + 150
    return (
        Detections.of(boxes, classes),
        Detections.of(torch.cat((found, false)), torch.cat((classes, classes)), torch.rand(10, generator=generator)),
        [seed % 3 == 0 and number == 0 for number in range(5)],
    )


def evaluate(images: list[int]) -> BoxEvaluation:
    truth, predictions, crowd = zip(*(scene(image) for image in images), strict=True)
    return evaluate_boxes(truth, predictions, CLASSES, crowd)


def test_counting_every_image_once_gives_the_precision_of_the_referee() -> None:
    evaluation = evaluate(list(range(IMAGES)))

    assert 0.1 < evaluation.summary.map50_95 < 0.9
    assert weighted_precision(evaluation.matches, np.ones(IMAGES, dtype=np.int64)) == pytest.approx(
        evaluation.summary.map50_95, abs=1e-9
    )


@pytest.mark.parametrize("drawn", [[0, 0, 1, 2, 2, 2], [3, 5, 7, 11, 11, 4], [6] * 6])
def test_a_resample_gives_what_the_referee_gives_on_those_images(drawn: list[int]) -> None:
    weight = np.bincount(drawn, minlength=IMAGES)

    assert weighted_precision(evaluate(list(range(IMAGES))).matches, weight) == pytest.approx(
        evaluate(drawn).summary.map50_95, abs=1e-9
    )


def test_the_same_images_are_drawn_every_time() -> None:
    matches = evaluate(list(range(IMAGES))).matches
    first, second = resampled_precision(matches), resampled_precision(matches)

    assert first is not None and second is not None and len(first) == RESAMPLES
    assert (first == second).all()
    assert first.std() > 0


def test_intervals_hold_what_they_estimate_about_as_often_as_they_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 60)
    sets = [evaluate(list(range(first, first + IMAGES))) for first in range(0, 40 * IMAGES, IMAGES)]
    expected = np.mean([each.summary.map50_95 for each in sets])
    held = 0
    for each in sets:
        values = resampled_precision(each.matches)
        assert values is not None
        found = interval(each.summary.map50_95, values)
        held += found.low <= expected <= found.high

    assert 0.85 <= held / len(sets) <= 1.0
    assert held < len(sets), "intervals that never miss are too wide"


def test_an_interval_stays_within_what_is_possible() -> None:
    assert interval(0.01, np.array([0.0, 0.1])).low == 0
    assert interval(0.99, np.array([0.9, 1.0]), highest=1.0).high == 1
    assert interval(1.0, np.array([0.9, 1.1])).high > 1, "a share may exceed full precision"


def test_resamples_without_a_label_do_not_count() -> None:
    matches = evaluate([0, 1]).matches

    assert np.isnan(weighted_precision(matches, np.zeros(2, dtype=np.int64)))
    assert interval(0.5, np.array([0.4, np.nan, 0.6])) == interval(0.5, np.array([0.4, 0.6]))


def test_too_many_detections_are_not_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MAX_DETECTIONS", 10)

    assert resampled_precision(evaluate(list(range(IMAGES))).matches) is None
    assert resampled_precision([]) is None
