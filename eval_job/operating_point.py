"""Detectors at a confidence threshold: what a student needs to find as much as full precision, and how scores moved."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detectors.average_precision import BoxEvaluation, ClassMatches
from detectors.detections import Detections
from detectors.overlap import box_iou
from schemas.operating_point import (
    DEPLOYED,
    ConfidenceShift,
    DeploymentRecall,
    MatchedThreshold,
    OperatingPoint,
)

SAME_OBJECT = 0.5
"""IoU from which two boxes of a class show the same object."""
By = Literal["recall", "precision", "boxes"]


@dataclass(frozen=True)
class Ranked:
    """The detections of all classes at IoU 0.50, best first, crowd regions left out.

    Attributes:
        scores: `(D,)`, falling.
        right: `(D,)` int, running number of right ones.
        labels: number of objects.
    """

    scores: NDArray[np.float64]
    right: NDArray[np.int64]
    labels: int

    @classmethod
    def of(cls, matches: Sequence[ClassMatches]) -> "Ranked":
        """Of the matches of some classes."""
        counted = [~each.ignored[0] for each in matches]
        scores = np.concatenate([np.zeros(0), *(m.score[c] for m, c in zip(matches, counted, strict=True))])
        found = [m.found[0][c] for m, c in zip(matches, counted, strict=True)]
        order = np.argsort(-scores, kind="stable")
        right = np.concatenate([np.zeros(0, dtype=np.bool_), *found])[order]
        return cls(scores[order], np.cumsum(right), sum(int(each.labels.sum()) for each in matches))

    def at(self, threshold: float) -> OperatingPoint:
        """The detections with at least a score."""
        boxes = int(np.searchsorted(-self.scores, -threshold, side="right"))
        right = int(self.right[boxes - 1]) if boxes else 0
        recall = right / self.labels if self.labels else 0.0
        return OperatingPoint(
            threshold=threshold, recall=recall, precision=right / boxes if boxes else None, boxes=boxes
        )

    def matching(self, wanted: OperatingPoint, by: By) -> OperatingPoint | None:
        """The highest threshold that gives at least the wanted recall or boxes, or the lowest with the precision.

        It lies half-way to the next score that is left out, so that scores that are rounded a little differently are
        still on the same side of it.
        """
        count = np.arange(1, len(self.scores) + 1)
        if by == "recall":
            reached = self.right >= wanted.recall * self.labels - 1e-9
        elif by == "boxes":
            reached = count >= wanted.boxes
        else:
            reached = self.right / count >= (wanted.precision or 0.0) - 1e-9
        places = np.flatnonzero(reached)
        if not len(places):
            return None
        last = int(places[-1] if by == "precision" else places[0])
        return self.at(self._below(last))

    def _below(self, last: int) -> float:
        """A threshold that keeps the detections up to the `last`, and those with the same score."""
        score = self.scores[last]
        lower = self.scores[self.scores < score]
        return float((score + lower[0]) / 2) if len(lower) else float(score)


def matched_thresholds(student: BoxEvaluation, full: BoxEvaluation, labelled: bool) -> tuple[MatchedThreshold, ...]:
    """What takes the place of each of the deployed thresholds.

    Args:
        student: what it finds.
        full: what full precision finds on the same images.
        labelled: whether there are labels; else full precision is right by definition, and the number of boxes counts.
    """
    mine, theirs = Ranked.of(student.matches), Ranked.of(full.matches)
    kinds: tuple[By, ...] = ("recall", "precision") if labelled else ("boxes",)
    return tuple(
        MatchedThreshold(
            by=by,
            full_precision=(wanted := theirs.at(threshold)),
            unchanged=mine.at(threshold),
            matched=mine.matching(wanted, by) if wanted.boxes else None,
        )
        for threshold in DEPLOYED
        for by in kinds
    )


def deployment_recall(evaluation: BoxEvaluation) -> DeploymentRecall:
    """What a model finds at the first of the deployed thresholds."""
    threshold = DEPLOYED[0]

    def recall(matches: Sequence[ClassMatches]) -> float | None:
        ranked = Ranked.of(matches)
        return ranked.at(threshold).recall if ranked.labels else None

    sizes = {size: recall(matches) for size, matches in evaluation.matches_by_size.items()}
    per_class = {each.name: recall([each]) for each in evaluation.matches}
    return DeploymentRecall(
        point=Ranked.of(evaluation.matches).at(threshold),
        small=sizes["small"],
        medium=sizes["medium"],
        large=sizes["large"],
        per_class={name: value for name, value in per_class.items() if value is not None},
    )


def confidence_shift(
    student: Sequence[Detections], full: Sequence[Detections], class_names: Sequence[str]
) -> ConfidenceShift:
    """How scores of what full precision is sure of change in a student; each takes the best box that shows the same.

    Args:
        student: detections of each image.
        full: those of full precision.
        class_names: name of each class index.
    """
    shifts: list[float] = []
    classes: list[int] = []
    missed = 0
    for mine, theirs in zip(student, full, strict=True):
        sure = theirs.select(theirs.scores >= DEPLOYED[0])
        same = (box_iou(sure.boxes, mine.boxes) >= SAME_OBJECT) & (sure.classes[:, None] == mine.classes[None, :])
        scores = (same * mine.scores[None, :]).amax(dim=1).tolist() if len(mine) else [0.0] * len(sure)
        for before, after, category in zip(sure.scores.tolist(), scores, sure.classes.tolist(), strict=True):
            if after > 0:
                shifts.append(after - before)
                classes.append(category)
            else:
                missed += 1
    values, of_class = np.array(shifts), np.array(classes)
    low, high = np.percentile(values, (5, 95)) if shifts else (0.0, 0.0)
    present = sorted(set(classes))
    return ConfidenceShift(
        confidence=DEPLOYED[0],
        pairs=len(shifts),
        missed=missed,
        mean=float(values.mean()) if shifts else 0.0,
        low=float(low),
        high=float(high),
        per_class={class_names[each]: float(values[of_class == each].mean()) for each in present},
        pairs_per_class={class_names[each]: int((of_class == each).sum()) for each in present},
    )
