import re
import xml.etree.ElementTree as ET

import pytest
from markupsafe import Markup

from eval_job.report.charts import (
    Axis,
    RangeMark,
    Series,
    column_chart,
    heat_map,
    line_chart,
    linear_axis,
    log_axis,
    moving_mean,
    range_chart,
)


def elements(chart: Markup, tag: str, style: str) -> list[ET.Element]:
    return [each for each in ET.fromstring(str(chart)).iter(tag) if style in each.get("class", "").split()]


def texts(chart: Markup) -> list[str]:
    return [each.text or "" for each in ET.fromstring(str(chart)).iter("text")]


@pytest.mark.parametrize(("highest", "end"), [(0.97, 1.0), (43.0, 50.0), (3.1, 4.0), (0.0006, 0.0006), (0.0, 1.0)])
def test_a_linear_axis_ends_at_a_round_number_above_the_data(highest: float, end: float) -> None:
    axis = linear_axis("loss", [highest / 2, highest])

    assert axis.low == 0
    assert axis.high == pytest.approx(end)
    assert axis.ticks()[0] == 0
    assert axis.ticks()[-1] == pytest.approx(end)
    assert 3 <= len(axis.ticks()) <= 7


def test_a_logarithmic_axis_holds_all_values_and_has_round_ticks() -> None:
    axis = log_axis("step size", [0.003, 0.04, 0.5])

    assert axis.low < 0.003 and axis.high > 0.5
    assert axis.ticks() == pytest.approx([0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5])
    assert axis.share(0.0) == 0, "a value that has no logarithm is put at the end"


@pytest.mark.parametrize("values", [[], [0.0], [1.0], [1e-9, 1e9]])
def test_an_axis_of_any_values_has_ticks_that_grow(values: list[float]) -> None:
    for axis in (linear_axis("y", values), log_axis("y", values)):
        ticks = axis.ticks()
        assert ticks == sorted(set(ticks))
        assert ticks


def test_a_line_runs_from_the_lower_left_to_the_upper_right_corner() -> None:
    unit = Axis("share", 0.0, 1.0)
    chart = line_chart("rising", unit, unit, [Series("a", "c2", [(0.0, 0.0), (1.0, 1.0)])])

    (line,) = elements(chart, "polyline", "c2")
    (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in line.get("points", "").split())
    assert x2 > x1 + 300
    assert y2 < y1 - 150, "up is a smaller y"
    (base,) = elements(chart, "line", "base")
    assert float(base.get("y1", "")) == pytest.approx(y1)


def test_axes_have_titles_and_tick_values() -> None:
    chart = line_chart("x", Axis("recall", 0.0, 1.0), Axis("precision", 0.0, 1.0), [])

    assert {"recall", "precision", "0", "0.2", "1"} <= set(texts(chart))


def test_column_heights_are_in_proportion_and_stand_on_the_base_line() -> None:
    chart = column_chart(
        "areas", "area", ["small", "large"], Axis("%", 0.0, 10.0), [Series("set", "s1", [(0.0, 5.0), (1.0, 10.0)])]
    )

    half, whole = elements(chart, "rect", "bar")
    assert float(whole.get("height", "")) == pytest.approx(2 * float(half.get("height", "")), abs=0.2)
    bottoms = {float(bar.get("y", "")) + float(bar.get("height", "")) for bar in (half, whole)}
    assert max(bottoms) - min(bottoms) < 0.2
    assert {"small", "large", "area", "%"} <= set(texts(chart))


def test_a_heat_map_writes_each_share_and_shades_the_largest_most() -> None:
    chart = heat_map("positions", [[0.1, 0.2], [0.3, 0.4]], "s1")

    assert texts(chart) == ["10%", "20%", "30%", "40%"]
    shades = [float(cell.get("fill-opacity", "")) for cell in elements(chart, "rect", "cell")]
    assert shades == sorted(shades) and shades[-1] > shades[0]


def test_a_range_chart_shows_each_item_with_its_span_and_where_it_was() -> None:
    marks = [RangeMark("a", None, 0.1, 0.2, 0.3), RangeMark("b", 0.1, 0.2, 0.2, 0.2)]
    chart = range_chart("steps", "layer", Axis("step", 0.01, 1.0, log=True), marks, "c2")

    assert len(elements(chart, "circle", "dot")) == 2
    (span,) = elements(chart, "line", "range")
    assert float(span.get("y1", "")) > float(span.get("y2", ""))
    (ring,) = elements(chart, "circle", "ring")
    dot = elements(chart, "circle", "dot")[1]
    assert float(ring.get("cy", "")) > float(dot.get("cy", "")), "0.1 before is below 0.2 now"


def test_text_in_charts_is_escaped() -> None:
    hostile = '"><script>x</script>'
    unit = Axis(hostile, 0.0, 1.0)
    drawn = [
        line_chart(hostile, unit, unit, [Series(hostile, "c1", [(0.0, 0.0)])]),
        column_chart(hostile, hostile, [hostile], unit, [Series(hostile, "c1", [(0.0, 1.0)])]),
        range_chart(hostile, hostile, log_axis(hostile, [1.0]), [RangeMark(hostile, 1.0, 1.0, 1.0, 1.0)], "c1"),
    ]
    for chart in drawn:
        assert "<script" not in chart
        ET.fromstring(str(chart))
        assert re.search(r'aria-label="&#34;&gt;&lt;script', str(chart))


def test_a_moving_mean_is_over_as_many_values_before_as_after() -> None:
    assert moving_mean([4.0, 2.0, 0.0, 1.0, 9.0], 3) == [(1.0, 4.0), (2.0, 2.0), (3.0, 1.0), (4.0, 10 / 3), (5.0, 9.0)]
    assert moving_mean([1.0, 2.0], 1) == [(1.0, 1.0), (2.0, 2.0)]
    assert moving_mean([], 3) == []
