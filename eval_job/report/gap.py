"""The synthetic-to-real gap on the page: how close each layer's output is on the set, and on photographs."""

import statistics
from dataclasses import dataclass

from markupsafe import Markup

from eval_job.report.charts import Series, line_chart, span_axis
from schemas.evaluation import EvalReport
from schemas.layer_study import Fidelity, LayerGap

SHOWN = 12
"""Layers in the table before a reader asks for all."""
ALIKE_DB, APART_DB = 1.0, 3.0
"""Up to the first, the images of the set stand for real ones; beyond the second, they do not."""


@dataclass(frozen=True)
class GapRow:
    """One layer; figures are empty where it was not measured."""

    name: str
    calibration: tuple[str, str]
    """SNR in decibels, cosine."""
    real: tuple[str, str]
    gap: str


@dataclass(frozen=True)
class Gap:
    """What the page shows of one student."""

    model: str
    sentence: str
    images: str
    chart: Markup
    legend: list[tuple[str, str]]
    rows: list[GapRow]


def gaps(report: EvalReport) -> list[Gap]:
    """One for each student that was looked into."""
    real = "rendered scenes" if report.data.format == "rendered" else "photographs"
    return [_gap(each, real) for each in report.layer_gaps]


def sentence(gap: LayerGap, real: str) -> str:
    """What the picture means, where the images of the data are called `real`."""
    both = [
        (each.real.snr_db - each.calibration.snr_db, each.name)
        for each in gap.layers
        if each.real is not None and each.calibration is not None
    ]
    if not both:
        seen = "the calibration set" if gap.calibration_images else real
        return f"Measured on {seen} alone, so that nothing can be said of a gap between synthetic and real images."
    median = statistics.median(change for change, _ in both)
    worst, name = min(both)
    if abs(median) <= ALIKE_DB:
        said = (
            f"The synthetic images stand for {real}: in the median a layer's output is as close to full precision "
            f"on both ({median:+.1f} dB)."
        )
    elif median < 0:
        degree = "somewhat" if median >= -APART_DB else "clearly"
        said = (
            f"On {real} the outputs of layers are {degree} further from full precision than on the set "
            f"({median:+.1f} dB in the median): what was fitted to synthetic images holds less there."
        )
    else:
        said = (
            f"On {real} the outputs of layers are closer to full precision than on the set ({median:+.1f} dB in the "
            "median): the synthetic images ask more of the network than real ones do."
        )
    if worst < -ALIKE_DB:
        said += f" The gap is widest at {name} ({worst:+.1f} dB)."
    return said


def _gap(gap: LayerGap, real: str) -> Gap:
    sides = (
        ("calibration set", "s1", [each.calibration for each in gap.layers]),
        (real, "c0", [each.real for each in gap.layers]),
    )
    series = [
        Series(name, style, [(float(n), each.snr_db) for n, each in enumerate(side, start=1) if each is not None])
        for name, style, side in sides
    ]
    series = [each for each in series if each.points]
    values = [value for each in series for _, value in each.points]
    x = span_axis("quantized layer, in the order of the network", [1.0, float(len(gap.layers))])
    chart = line_chart(
        f"Signal to noise of layer outputs of {gap.model}, {' and '.join(each.name for each in series)}",
        type(x)(x.title, 0.0, float(len(gap.layers) + 1)),
        span_axis("signal to noise, dB", values),
        series,
    )
    ordered = sorted(gap.layers, key=lambda each: (_change(each.calibration, each.real), each.name))
    rows = [
        GapRow(
            each.name,
            _figures(each.calibration),
            _figures(each.real),
            f"{_change(each.calibration, each.real):+.1f}" if each.calibration and each.real else "–",
        )
        for each in ordered
    ]
    images = f"{gap.calibration_images} images of the set and {gap.real_images} {real}"
    return Gap(gap.model, sentence(gap, real), images, chart, [(each.name, each.style) for each in series], rows)


def _change(calibration: Fidelity | None, real: Fidelity | None) -> float:
    return real.snr_db - calibration.snr_db if real is not None and calibration is not None else 0.0


def _figures(fidelity: Fidelity | None) -> tuple[str, str]:
    return ("–", "–") if fidelity is None else (f"{fidelity.snr_db:.1f}", f"{fidelity.cosine:.3f}")
