"""The labels of a calibration set beside what the teacher detects on the validation images."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from eval_job.report.charts import Series, column_chart, heat_map, linear_axis
from schemas.calibration_set import AREA_EDGES, LabelStatistics

MAX_CLASSES = 20
"""Classes in the table; the rest is summed up."""
SET, DETECTIONS = "s1", "c0"
"""Colours of the two in the style sheet."""


@dataclass(frozen=True)
class ClassShare:
    """How often a class occurs among the boxes, as a share of all; None where there is nothing to compare with."""

    name: str
    in_set: float
    in_detections: float | None


@dataclass(frozen=True)
class LabelComparison:
    """What the page shows of labels."""

    summary: list[tuple[str, str, str]]
    """Quantity, the set's value, the detections'."""
    classes: list[ClassShare]
    largest: float
    """The largest share in `classes`, which fills its bar."""
    more_classes: int
    areas: Markup
    positions: list[tuple[str, Markup]]


def compare_labels(labels: LabelStatistics, detections: LabelStatistics | None) -> LabelComparison:
    """Class frequencies, areas and positions, side by side as shares of all boxes."""
    classes = _class_shares(labels, detections)
    both = [("calibration set", SET, labels)] + ([("detections", DETECTIONS, detections)] if detections else [])
    areas = {name: _shares(statistics.area_histogram) for name, _, statistics in both}
    ranges = [f"{low:.0%}–{high:.0%}".replace("%–", "–") for low, high in pairwise(AREA_EDGES)]
    return LabelComparison(
        summary=_summary(labels, detections),
        classes=classes[:MAX_CLASSES],
        largest=max((max(c.in_set, c.in_detections or 0.0) for c in classes), default=1.0) or 1.0,
        more_classes=max(len(classes) - MAX_CLASSES, 0),
        areas=column_chart(
            "Share of boxes by box area, " + " and ".join(areas),
            "box area, % of the image",
            [text.rstrip("%") for text in ranges],
            linear_axis("% of boxes", [100 * value for shares in areas.values() for value in shares]),
            [
                Series(name, style, [(float(n), 100 * value) for n, value in enumerate(areas[name])])
                for name, style, _ in both
            ],
        ),
        positions=[
            (name, heat_map(f"Share of box centres by position in the image, {name}", _grid(statistics), style))
            for name, style, statistics in both
        ],
    )


def _summary(labels: LabelStatistics, detections: LabelStatistics | None) -> list[tuple[str, str, str]]:
    def of(statistics: LabelStatistics | None) -> tuple[str, ...]:
        if statistics is None:
            return ("", "", "", "")
        return (
            f"{statistics.images:,}",
            f"{statistics.boxes:,}",
            f"{statistics.boxes_per_image:.2f}",
            f"{len(statistics.class_histogram):,}",
        )

    quantities = ("images", "boxes", "boxes per image", "classes that occur")
    return list(zip(quantities, of(labels), of(detections), strict=True))


def _class_shares(labels: LabelStatistics, detections: LabelStatistics | None) -> list[ClassShare]:
    """Most frequent first, by the larger of the two shares; names decide between equals."""
    names = dict.fromkeys([*labels.class_histogram, *(detections.class_histogram if detections else {})])
    shares = [
        ClassShare(
            name,
            labels.class_histogram.get(name, 0) / max(labels.boxes, 1),
            detections.class_histogram.get(name, 0) / max(detections.boxes, 1) if detections else None,
        )
        for name in names
    ]
    return sorted(shares, key=lambda each: (-max(each.in_set, each.in_detections or 0.0), each.name))


def _shares(counts: Sequence[int]) -> list[float]:
    return [count / max(sum(counts), 1) for count in counts]


def _grid(statistics: LabelStatistics) -> list[list[float]]:
    return [[count / max(statistics.boxes, 1) for count in row] for row in statistics.position_histogram]
