"""How much a mean average precision owes to the images it was measured on: a bootstrap over them."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detectors.average_precision import ClassMatches
from schemas.evaluation import Interval

RESAMPLES = 200
MAX_DETECTIONS = 400_000
"""With more detections than this the images are many, the intervals narrow, and resampling takes minutes: left out."""
RECALLS = np.linspace(0, 1, 101)
"""The recall levels of COCO."""


def resampled_precision(matches: Sequence[ClassMatches], seed: int = 0) -> NDArray[np.float64] | None:
    """mAP50-95 on `RESAMPLES` resamples of the images, `(R,)`; see `resampled_classes`."""
    resampled = resampled_classes(matches, seed)
    return None if resampled is None else mean_over_classes(resampled)


def resampled_classes(matches: Sequence[ClassMatches], seed: int = 0) -> NDArray[np.float64] | None:
    """AP50-95 of each class on `RESAMPLES` resamples of the images, drawn with replacement, `(R, C)`.

    The same seed draws the same images, so that models evaluated on the same data can be compared resample by resample.
    Where a class has no label in a resample it is NaN. None where it takes too long.
    """
    if not matches or sum(len(each.image) for each in matches) > MAX_DETECTIONS:
        return None
    images = len(matches[0].labels)
    draws = np.random.default_rng(seed).integers(images, size=(RESAMPLES, images))
    weights = [np.bincount(draw, minlength=images) for draw in draws]
    return np.array([_weighted_classes(matches, weight) for weight in weights])


def weighted_precision(matches: Sequence[ClassMatches], weight: NDArray[np.int64]) -> float:
    """mAP50-95 as pycocotools computes it, each image counted `weight` (I,) times; NaN where no label is among them."""
    return float(mean_over_classes(np.array([_weighted_classes(matches, weight)]))[0])


def mean_over_classes(resampled: NDArray[np.float64]) -> NDArray[np.float64]:
    """mAP50-95 of each resample, `(R,)`; classes without a label in a resample do not count there, as in COCO."""
    there = ~np.isnan(resampled)
    with np.errstate(invalid="ignore"):
        return np.where(there, resampled, 0.0).sum(axis=1) / there.sum(axis=1)


def _weighted_classes(matches: Sequence[ClassMatches], weight: NDArray[np.int64]) -> list[float]:
    averages: list[float] = []
    for each in matches:
        labels = int((each.labels * weight).sum())
        if labels == 0:
            averages.append(math.nan)
            continue
        counts = weight[each.image]
        right = np.cumsum((each.found & ~each.ignored) * counts, axis=1)
        wrong = np.cumsum((~each.found & ~each.ignored) * counts, axis=1)
        averages.append(float(np.mean([_area(r, w, labels) for r, w in zip(right, wrong, strict=True)])))
    return averages


def interval(estimate: float, values: NDArray[np.float64], highest: float = math.inf) -> Interval:
    """95 % around an estimate: 1.96 standard deviations of its bootstrap values, not below 0 nor above `highest`.

    Around the estimate, not between percentiles of the values: mAP of a resample is biased upwards, because images that
    are there twice make a class look more uniform than it is.
    """
    reach = 1.96 * float(np.nanstd(values, ddof=1))
    return Interval(low=max(estimate - reach, 0.0), high=min(estimate + reach, highest))


def _area(right: NDArray[np.int64], wrong: NDArray[np.int64], labels: int) -> float:
    """Mean precision at the recall levels, from running counts of right and wrong detections, best first."""
    precision = right / np.maximum(right + wrong, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(right / labels, RECALLS, side="left")
    return float(np.append(envelope, 0.0)[at].mean())
