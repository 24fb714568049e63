"""A student layer by layer: learned step sizes, and how sensitive each layer is."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from eval_job.report.artifacts import StudentArtifacts
from eval_job.report.charts import Axis, RangeMark, log_axis, range_chart
from eval_job.report.step_sizes import LayerSteps
from schemas.calibration_set import ImageSource
from schemas.sensitivity import LayerSensitivity, SensitivityReport

MOST_SENSITIVE = 15
"""Layers shown before a reader asks for all."""
BELOW_MEDIANS = 5
"""The scale ends at the smallest median divided by this: a channel of zeros has a step size near nothing."""
REALITY = {
    ImageSource.SYNTHESIZED: ", no real one",
    ImageSource.NOISE: " of noise",
    ImageSource.REAL: ", which are real",
}


@dataclass(frozen=True)
class SensitivityRow:
    """One layer of the ranking.

    Attributes:
        name: module path.
        weights: number of weights.
        errors: (bits, error, place on the shared logarithmic axis from 0 to 1), fewest bits first.
    """

    name: str
    weights: int
    errors: list[tuple[int, float, float]]


@dataclass(frozen=True)
class Sensitivity:
    """The ranking and what it is by."""

    metric: str
    images: int
    reality: str
    """A clause that says whether the images are real."""
    bits: int
    """Layers are ranked by their error at this many weight bits."""
    lowest: float
    highest: float
    """Ends of the shared logarithmic axis."""
    rows: list[SensitivityRow]


@dataclass(frozen=True)
class Layers:
    """What the page shows of a student's layers."""

    name: str
    steps: Sequence[LayerSteps]
    weights: Markup | None
    activations: Markup | None
    trained: bool
    sensitivity: Sensitivity | None


def layers(student: StudentArtifacts) -> Layers:
    """Charts and ranking of one student."""
    before = {steps.name: steps for steps in student.steps_before}
    return Layers(
        name=student.name,
        steps=student.steps,
        weights=_chart(
            f"Step sizes of weights of {student.name}, layer by layer",
            [
                RangeMark(
                    f"{steps.name}, {steps.weight_bits} bits",
                    before[steps.name].weight_median if steps.name in before else None,
                    steps.weight_low,
                    steps.weight_median,
                    steps.weight_high,
                )
                for steps in student.steps
            ],
            "c2",
        ),
        activations=_chart(
            f"Step sizes of activations of {student.name}, layer by layer",
            [
                RangeMark(
                    f"{steps.name}, {steps.input_bits} bits",
                    before[steps.name].input if steps.name in before else None,
                    steps.input,
                    steps.input,
                    steps.input,
                )
                for steps in student.steps
            ],
            "c2",
        ),
        trained=bool(before),
        sensitivity=_ranking(student.sensitivity, student.manifest.bits.weight_bits) if student.sensitivity else None,
    )


def _chart(title: str, marks: list[RangeMark], style: str) -> Markup | None:
    if not marks:
        return None
    lowest = min(mark.middle for mark in marks) / BELOW_MEDIANS
    values = [value for mark in marks for value in (max(mark.low, lowest), mark.high, mark.before or mark.middle)]
    axis = log_axis("step size", values)
    return range_chart(title, "quantized layer, in the order of the network", axis, marks, style)


def _ranking(report: SensitivityReport, weight_bits: int) -> Sensitivity:
    """Layers by their error at the student's weight bits, or at the fewest that were measured."""
    measured = {each.weight_bits for layer in report.layers for each in layer.errors}
    bits = weight_bits if weight_bits in measured else min(measured)
    axis = log_axis("error", [each.error for layer in report.layers for each in layer.errors])
    ordered = sorted(report.layers, key=lambda layer: (-_error_at(layer, bits), layer.name))
    rows = [_row(layer, axis) for layer in ordered]
    reality = REALITY[report.calibration_set.image_source]
    return Sensitivity(report.metric, report.images, reality, bits, axis.low, axis.high, rows)


def _row(layer: LayerSensitivity, axis: Axis) -> SensitivityRow:
    errors = [(each.weight_bits, each.error, axis.share(each.error)) for each in layer.errors]
    return SensitivityRow(layer.name, layer.weights, errors)


def _error_at(layer: LayerSensitivity, bits: int) -> float:
    return next((each.error for each in layer.errors if each.weight_bits == bits), 0.0)
