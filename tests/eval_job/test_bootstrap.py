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


def test_the_interval_holds_the_estimate_and_is_the_same_every_time() -> None:
    evaluation = evaluate(list(range(IMAGES)))
    values = resampled_precision(evaluation.matches)

    assert values is not None and len(values) == RESAMPLES
    assert interval(values).low < evaluation.summary.map50_95 < interval(values).high
    again = resampled_precision(evaluation.matches)
    assert again is not None and (values == again).all()


def test_the_interval_is_narrower_with_more_images() -> None:
    def width(images: list[int]) -> float:
        values = resampled_precision(evaluate(images).matches)
        assert values is not None
        return interval(values).high - interval(values).low

    assert width(list(range(48))) < width(list(range(6)))


def test_too_many_detections_are_not_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MAX_DETECTIONS", 10)

    assert resampled_precision(evaluate(list(range(IMAGES))).matches) is None
    assert resampled_precision([]) is None
