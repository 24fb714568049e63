"""Classes whose average precision changed by more than the choice of images explains."""

import math

import numpy as np
from numpy.typing import NDArray

from detectors.average_precision import BoxEvaluation
from schemas.operating_point import ClassChange, ClassChanges, ClassLabels

LEAST_IMAGES = 10
"""A class on fewer images is not tested: a bootstrap of so few says little."""
FALSE_DISCOVERY_RATE = 0.05


def class_labels(evaluation: BoxEvaluation) -> dict[str, ClassLabels]:
    """Boxes and images of each class with labels."""
    return {
        each.name: ClassLabels(boxes=int(each.labels.sum()), images=int((each.labels > 0).sum()))
        for each in evaluation.matches
    }


def class_changes(
    student: BoxEvaluation,
    full: BoxEvaluation,
    resampled: NDArray[np.float64] | None,
    resampled_full: NDArray[np.float64] | None,
) -> ClassChanges | None:
    """The classes that changed, by the paired bootstrap and the procedure of Benjamini and Hochberg (1995).

    Args:
        student: what it finds.
        full: what full precision finds on the same images.
        resampled: AP50-95 of the student by resample and class, `(R, C)`.
        resampled_full: those of full precision on the same resamples.
    """
    if resampled is None or resampled_full is None:
        return None
    tested = []
    for column, each in enumerate(student.matches):
        if (each.labels > 0).sum() < LEAST_IMAGES:
            continue
        change = student.per_class[each.name] - full.per_class[each.name]
        deviation = float(np.nanstd(resampled[:, column] - resampled_full[:, column], ddof=1))
        tested.append(_change(each.name, change, deviation))
    tested.sort(key=lambda each: each.p_value)
    passed = [n for n, each in enumerate(tested, start=1) if each.p_value <= FALSE_DISCOVERY_RATE * n / len(tested)]
    changed = tested[: max(passed, default=0)]
    return ClassChanges(
        tested=len(tested),
        least_images=LEAST_IMAGES,
        false_discovery_rate=FALSE_DISCOVERY_RATE,
        changed=tuple(sorted(changed, key=lambda each: each.change)),
    )


def _change(name: str, change: float, deviation: float) -> ClassChange:
    if deviation > 0:
        p_value = math.erfc(abs(change) / deviation / math.sqrt(2))
    else:
        p_value = 0.0 if change else 1.0
    reach = 1.96 * deviation
    return ClassChange(name=name, change=change, low=change - reach, high=change + reach, p_value=p_value)
