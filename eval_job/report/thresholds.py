"""Confidence thresholds on the page: what a student needs in place of those of full precision, and how scores moved."""

from dataclasses import dataclass

from eval_job.report.headline import headline_model
from eval_job.report.wording import percent
from schemas.evaluation import EvalReport, EvaluatedModel
from schemas.operating_point import ConfidenceShift, MatchedThreshold

SHIFTED = 12
"""Classes shown with their shift of confidence."""
FEW = 5
"""A mean over fewer pairs is not shown by class."""
FIGURES = {"recall": "recall", "precision": "precision", "boxes": "number of boxes"}


@dataclass(frozen=True)
class ThresholdRow:
    """One threshold of full precision and what takes its place."""

    at: str
    by: str
    full: str
    unchanged: str
    threshold: str
    matched: str
    precision: str
    """Of the student at its own threshold."""


@dataclass(frozen=True)
class Thresholds:
    """What the page says of the thresholds of the model that it is about."""

    sentence: str
    rows: list[ThresholdRow]
    shift: ConfidenceShift | None
    classes: list[tuple[str, float, int]]
    """Class, mean shift, pairs: those that lost most confidence first."""


def thresholds(report: EvalReport) -> Thresholds | None:
    """Of the headline model; None where nothing was measured."""
    model = headline_model(report)
    if not model.thresholds:
        return None
    shift = model.confidence_shift
    classes = []
    if shift is not None:
        counted = [(name, mean, shift.pairs_per_class.get(name, 0)) for name, mean in shift.per_class.items()]
        classes = sorted((each for each in counted if each[2] >= FEW), key=lambda each: (each[1], each[0]))[:SHIFTED]
    return Thresholds(sentence(model), [_row(each) for each in model.thresholds], shift, classes)


def sentence(model: EvaluatedModel) -> str:
    """What to do with the threshold, in a sentence; empty where nothing was measured."""
    if not model.thresholds:
        return ""
    first = model.thresholds[0]
    figure, at = FIGURES[first.by], first.full_precision.threshold
    if first.matched is None:
        return f"No threshold of {model.name} gives the {figure} that full precision has at {at:g}."
    text = f"Filter {model.name} at {first.matched.threshold:.3f} where full precision is filtered at {at:g}: "
    if first.by == "boxes":
        return text + f"it then gives as many boxes ({first.full_precision.boxes:,})."
    there, kept = first.full_precision.recall, first.unchanged.recall
    return text + (
        f"its recall is then {percent(first.matched.recall)} against {percent(there)}, and {percent(kept)} if the "
        "threshold stays."
    )


def _row(each: MatchedThreshold) -> ThresholdRow:
    matched = each.matched
    figures = []
    for point in (each.full_precision, each.unchanged, matched):
        if point is None:
            figures.append("–")
        elif each.by == "boxes":
            figures.append(f"{point.boxes:,}")
        else:
            value = point.recall if each.by == "recall" else point.precision
            figures.append("–" if value is None else percent(value))
    return ThresholdRow(
        at=f"{each.full_precision.threshold:g}",
        by=FIGURES[each.by],
        full=figures[0],
        unchanged=figures[1],
        threshold="none" if matched is None else f"{matched.threshold:.3f}",
        matched=figures[2],
        precision="–" if matched is None or matched.precision is None else percent(matched.precision),
    )
