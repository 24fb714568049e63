"""Small charts as inline SVG. Colours come from the page's style sheet, so that they follow its theme."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 460.0, 280.0
"""Size of a chart in its own units: about CSS pixels where two stand side by side on a desktop page."""
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 14.0, 44.0
"""Margins around the plotting area, for tick labels and axis titles."""
SMALLEST = 1e-100
"""Smallest value that is told from 0."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line or one group of bars: its legend name, its class in the style sheet, its values."""

    name: str
    style: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis.

    Attributes:
        title: quantity and unit.
        low, high: its ends, in data units; positive where logarithmic.
        log: whether it is logarithmic.
    """

    title: str
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where `value` lies between the ends, 0 to 1; values beyond them are put at the end."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return min(max((value - low) / (high - low), 0.0), 1.0)

    def ticks(self) -> list[float]:
        """About five round values between the ends; 1, 2 and 5 times powers of ten on a logarithmic axis."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            factors = (1, 2, 5) if len(decades) <= 4 else (1,)
            every = decades[:: max(1, math.ceil(len(decades) / 7))]
            rounded = [factor * 10.0**decade for decade in every for factor in factors]
            return [value for value in rounded if self.low <= value <= self.high]
        step = _round_step(self.high - self.low)
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def linear_axis(title: str, values: Sequence[float]) -> Axis:
    """An axis from zero to a round number above the largest value."""
    high = max(values, default=0.0)
    if high < SMALLEST:
        return Axis(title, 0.0, 1.0)
    step = _round_step(high)
    return Axis(title, 0.0, math.ceil(high / step - 1e-9) * step)


def log_axis(title: str, values: Sequence[float]) -> Axis:
    """A logarithmic axis a little wider than all positive values."""
    positive = [value for value in values if value > SMALLEST] or [1.0]
    return Axis(title, min(positive) / 1.6, max(positive) * 1.6, log=True)


def line_chart(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> Markup:
    """Lines over two axes; `title` is what a screen reader says."""
    lines = Markup("").join(
        Markup('<polyline class="line {}" points="{}"/>').format(
            each.style, " ".join(f"{_x(x, a):.1f},{_y(y, b):.1f}" for a, b in each.points)
        )
        for each in series
        if each.points
    )
    return _chart(title, x, y, lines)


@dataclass(frozen=True)
class Mark:
    """One item of a scatter chart: its name, its class in the style sheet, where it is."""

    name: str
    style: str
    x: float
    y: float


def scatter_chart(title: str, x: Axis, y: Axis, marks: Sequence[Mark], frontier: Sequence[Point]) -> Markup:
    """Dots over two axes, numbered from 1, and a line through those that nothing beats."""
    parts: list[Markup] = []
    if frontier:
        points = " ".join(f"{_x(x, a):.1f},{_y(y, b):.1f}" for a, b in frontier)
        parts.append(Markup('<polyline class="frontier" points="{}"/>').format(points))
    for number, mark in enumerate(marks, start=1):
        left, top = _x(x, mark.x), _y(y, mark.y)
        parts.append(Markup("<g><title>{}: {} at {}</title>").format(mark.name, _number(mark.y), _number(mark.x)))
        parts.append(_circle(left, top, 5.5, f"dot {mark.style}"))
        anchor, shift = ("end", -9.0) if x.share(mark.x) > 0.85 else ("start", 9.0)
        parts.append(_text(str(number), left + shift, top + 4, anchor, "mark-text") + Markup("</g>"))
    return _chart(title, x, y, Markup("").join(parts))


def span_axis(title: str, values: Sequence[float]) -> Axis:
    """A linear axis between round numbers around all values."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    step = _round_step(max(high - low, abs(high) * 0.02, SMALLEST))
    return Axis(title, (math.floor(low / step + 1e-9) - 1) * step, (math.ceil(high / step - 1e-9) + 1) * step)


def column_chart(title: str, x_title: str, categories: Sequence[str], y: Axis, series: Sequence[Series]) -> Markup:
    """Groups of columns, one group per category and one column per series; the y values of `points` count."""
    group = (WIDTH - LEFT - RIGHT) / max(len(categories), 1)
    column = group * 0.76 / max(len(series), 1)
    parts: list[Markup] = []
    for number, each in enumerate(series):
        for index, (_, value) in enumerate(each.points):
            left = LEFT + group * (index + 0.12) + column * number
            top = _y(y, value)
            parts.append(
                Markup('<rect class="bar {}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
                    each.style,
                    f"{left:.1f}",
                    f"{top:.1f}",
                    f"{column - 1:.1f}",
                    f"{HEIGHT - BOTTOM - top:.1f}",
                    f"{each.name}, {categories[index]}: {_number(value)}",
                )
            )
    for index, name in enumerate(categories):
        centre = LEFT + group * (index + 0.5)
        parts.append(_text(name, centre, HEIGHT - BOTTOM + 16, "middle"))
    parts.append(_text(x_title, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "middle", "axis-title"))
    return _svg(title, WIDTH, HEIGHT, _y_axis(y, WIDTH) + Markup("").join(parts))


def heat_map(title: str, rows: Sequence[Sequence[float]], style: str) -> Markup:
    """Shares (0 to 1) on a grid, each written in its cell, darker for more."""
    cell, gap = 56.0, 3.0
    highest = max((value for row in rows for value in row), default=0.0) or 1.0
    parts: list[Markup] = []
    for r, row in enumerate(rows):
        for c, value in enumerate(row):
            left, top = c * (cell + gap), r * (cell + gap)
            opacity = f"{0.06 + 0.54 * value / highest:.2f}"
            parts.append(
                Markup(
                    '<rect class="cell {}" x="{:g}" y="{:g}" width="{:g}" height="{:g}" rx="3" fill-opacity="{}"/>'
                ).format(style, left, top, cell, cell, opacity)
            )
            parts.append(_text(f"{value:.0%}", left + cell / 2, top + cell / 2 + 4, "middle", "cell-text"))
    side = max(len(rows), 1) * (cell + gap) - gap
    return _svg(title, side, side, Markup("").join(parts), "chart map")


@dataclass(frozen=True)
class RangeMark:
    """One item of a range chart: where it was before, and its low, middle and high value now."""

    name: str
    before: float | None
    low: float
    middle: float
    high: float


def range_chart(title: str, x_title: str, y: Axis, marks: Sequence[RangeMark], style: str) -> Markup:
    """One mark per item, in order, across a wide chart.

    A bar from low to high, a dot at the middle, a ring where the middle was before.
    """
    width = max(2 * WIDTH, LEFT + RIGHT + 11.0 * len(marks))
    step = (width - LEFT - RIGHT) / max(len(marks), 1)
    parts: list[Markup] = []
    for index, mark in enumerate(marks):
        centre = LEFT + step * (index + 0.5)
        parts.append(Markup("<g><title>{}: {}</title>").format(mark.name, _number(mark.middle)))
        if mark.high > mark.low:
            parts.append(_line(centre, _y(y, mark.low), centre, _y(y, mark.high), f"range {style}"))
        if mark.before is not None:
            parts.append(_circle(centre, _y(y, mark.before), 3.4, f"ring {style}"))
        parts.append(_circle(centre, _y(y, mark.middle), 2.4, f"dot {style}"))
        parts.append(Markup("</g>"))
    for index in range(0, len(marks), 10):
        parts.append(_text(str(index + 1), LEFT + step * (index + 0.5), HEIGHT - BOTTOM + 16, "middle"))
    parts.append(_text(x_title, (LEFT + width - RIGHT) / 2, HEIGHT - 8, "middle", "axis-title"))
    return _svg(title, width, HEIGHT, _y_axis(y, width) + Markup("").join(parts), "chart wide")


def moving_mean(values: Sequence[float], window: int) -> list[Point]:
    """Mean of each value and up to `window` // 2 neighbours on either side, at its position counted from 1.

    At the ends there are fewer, as many on one side as on the other, so that the mean does not lag behind the curve.
    """
    totals = [0.0]
    for value in values:
        totals.append(totals[-1] + value)
    means: list[Point] = []
    for index in range(len(values)):
        reach = min(window // 2, index, len(values) - 1 - index)
        means.append((float(index + 1), (totals[index + reach + 1] - totals[index - reach]) / (2 * reach + 1)))
    return means


def _round_step(span: float) -> float:
    """A round distance that divides `span` into about five parts."""
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next(step for factor in (1, 2, 2.5, 5, 10) if (step := factor * power) * 5.5 >= span)


def _chart(title: str, x: Axis, y: Axis, marks: Markup) -> Markup:
    parts: list[Markup] = []
    for tick in x.ticks():
        parts.append(_text(_number(tick), _x(x, tick), HEIGHT - BOTTOM + 16, "middle"))
    parts.append(_text(x.title, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "middle", "axis-title"))
    return _svg(title, WIDTH, HEIGHT, _y_axis(y, WIDTH) + Markup("").join(parts) + marks)


def _y_axis(y: Axis, width: float) -> Markup:
    """Grid lines with their values, the base line, and the title above them."""
    parts = [_text(y.title, 0, TOP - 3, "start", "axis-title")]
    for tick in y.ticks():
        height = _y(y, tick)
        parts.append(_line(LEFT, height, width - RIGHT, height, "grid"))
        parts.append(_text(_number(tick), LEFT - 6, height + 4, "end"))
    parts.append(_line(LEFT, HEIGHT - BOTTOM, width - RIGHT, HEIGHT - BOTTOM, "base"))
    return Markup("").join(parts)


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    top = TOP + 12  # room for the title
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - BOTTOM - top)


def _svg(title: str, width: float, height: float, content: Markup, style: str = "chart") -> Markup:
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        style, f"{width:g}", f"{height:g}", title, content
    )


def _text(text: str, x: float, y: float, anchor: str, style: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        style, f"{x:.1f}", f"{y:.1f}", anchor, text
    )


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        style, f"{x1:.1f}", f"{y1:.1f}", f"{x2:.1f}", f"{y2:.1f}"
    )


def _circle(x: float, y: float, radius: float, style: str) -> Markup:
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>').format(style, f"{x:.1f}", f"{y:.1f}", f"{radius:g}")


def _number(value: float) -> str:
    """A tick label: as short as it can be."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"
