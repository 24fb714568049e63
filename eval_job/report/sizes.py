"""Accuracy by object size and by class, and what changed beyond chance."""

from dataclasses import dataclass

from eval_job.report.headline import style_of
from eval_job.report.wording import number, percent
from schemas.evaluation import EvalReport


@dataclass(frozen=True)
class SizeRow:
    """One model: average precision and recall of small, medium and large objects."""

    name: str
    style: str
    precision: tuple[str, str, str]
    recall: tuple[str, str, str, str]
    """Small, medium, large, all; empty where it was not measured."""


def size_rows(report: EvalReport) -> list[SizeRow]:
    """A row for each model."""
    rows = []
    for index, model in enumerate(report.models):
        by_size = (model.precision.map_small, model.precision.map_medium, model.precision.map_large)
        small, medium, large = (number(value) for value in by_size)
        recall = ("–", "–", "–", "–")
        if model.deployed is not None:
            found = model.deployed
            values = (found.small, found.medium, found.large, found.point.recall)
            a, b, c, d = ("–" if value is None else percent(value) for value in values)
            recall = (a, b, c, d)
        rows.append(SizeRow(model.name, style_of(index), (small, medium, large), recall))
    return rows


def chance(report: EvalReport, about: str) -> str:
    """Which classes of the model changed by more than chance, in a sentence; empty where it was not tested."""
    model = next(each for each in report.models if each.name == about)
    changes = model.class_changes
    if changes is None:
        return ""
    if not changes.tested:
        return (
            f"No class is on {changes.least_images} images or more, so that no loss of a single one can be told from "
            "chance."
        )
    lost = [f"{each.name} ({each.change:+.3f}, {each.low:+.3f} to {each.high:+.3f})" for each in changes.changed]
    enough = f"are on {changes.least_images} images or more and were tested"
    tested = f"{changes.tested} of {len(model.per_class)} classes {enough}"
    if not lost:
        return f"{tested}: none changed by more than chance explains."
    return (
        f"{tested}. Beyond chance changed {', '.join(lost)}: at a false discovery rate of "
        f"{percent(changes.false_discovery_rate)}, by the paired bootstrap."
    )
