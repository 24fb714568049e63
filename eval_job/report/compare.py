"""The page of several runs: `zsq report compare`. Imports no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from eval_job.report.charts import Mark, scatter_chart, span_axis
from eval_job.report.headline import STYLES
from eval_job.report.runs import (
    Point,
    Run,
    differences,
    differing_settings,
    frontier,
    obstacles,
    points,
    read_runs,
    speed,
)
from eval_job.report.templates import environment, resource
from eval_job.report.wording import number, percent
from schemas.evaluation import EvaluatedModel
from stages.storage import write_text

COMPARISON = "compare.html"


@dataclass(frozen=True)
class Row:
    """A run in the table."""

    name: str
    style: str
    model: str
    map50_95: str
    share: str
    interval: str
    megabytes: str
    milliseconds: str
    speed_up: str
    verdict: str


def write_comparison(folders: Sequence[Path], output: Path) -> None:
    """Write the page of several runs; equal folders give equal bytes.

    Raises:
        ConfigError: the folders do not make a comparison.
        InputError: one of them holds no finished evaluation, or the page cannot be written.
        VerificationError: a document is not valid.
    """
    write_text(output, render(read_runs(folders)))


def render(runs: Sequence[Run]) -> str:
    """The page as HTML."""
    found = points(runs)
    best = max(runs, key=lambda run: run.model.share_of_full_precision)
    page = environment().get_template("compare.html.j2")
    return page.render(
        style=Markup(resource("page.css")),  # ours, not anybody's input
        title=f"{len(runs)} runs beside each other",
        sentence=(
            f"{best.name} keeps most of full precision: {percent(best.model.share_of_full_precision)} "
            f"({best.model.name})."
        ),
        runs=[_row(number, run) for number, run in enumerate(runs)],
        obstacles=obstacles(runs),
        charts=[
            chart
            for title, cost in (
                ("milliseconds an image, fewest threads timed", lambda point: point.milliseconds),
                ("megabytes of the file", lambda point: point.megabytes),
            )
            if (chart := _pareto(title, found, cost)) is not None
        ],
        first=runs[0].name,
        differences=differences(runs),
        settings=differing_settings(runs),
    )


def style_of(run: int) -> str:
    """Class of a run's colour in the style sheet."""
    return f"c{run % (STYLES - 1) + 1}"


@dataclass(frozen=True)
class Pareto:
    """A plot, and the names of its numbered dots; those that nothing beats are marked."""

    title: str
    chart: Markup
    names: list[tuple[str, str, str, bool]]
    """Style, name, figures, whether nothing beats it."""


def _pareto(title: str, found: Sequence[Point], cost_of: Callable[[Point], float | None]) -> Pareto | None:
    there = [(point, cost) for point in found if (cost := cost_of(point)) is not None]
    if not there:
        return None
    costs, shares = [cost for _, cost in there], [100 * point.share for point, _ in there]
    best = frontier(costs, shares)
    chart = scatter_chart(
        f"Share of full precision over {title}",
        span_axis(title, costs),
        span_axis("% of full precision", shares),
        [Mark(point.name, style_of(point.run), cost, 100 * point.share) for point, cost in there],
        [(costs[n], shares[n]) for n in best],
    )
    unit = "ms" if "milliseconds" in title else "MB"
    names = [
        (style_of(point.run), point.name, f"{percent(point.share)} at {cost:.3g}\u202f{unit}", n in best)
        for n, (point, cost) in enumerate(there)
    ]
    return Pareto(title, chart, names)


def _row(index: int, run: Run) -> Row:
    model, ratio = run.model, speed(run)
    verdict = run.report.verdict
    interval = model.uncertainty.share if model.uncertainty else None
    return Row(
        name=run.name,
        style=style_of(index),
        model=model.name,
        map50_95=number(model.precision.map50_95),
        share=percent(model.share_of_full_precision),
        interval=f"{percent(interval.low)} to {percent(interval.high)}" if interval else "",
        megabytes=f"{model.file_bytes / 1e6:.2f}" if model.file_bytes else "–",
        milliseconds=_milliseconds(model),
        speed_up=f"{ratio:.2f}" if ratio else "–",
        verdict="–" if verdict is None else ("pass" if verdict.met else "fail"),
    )


def _milliseconds(model: EvaluatedModel) -> str:
    fewest = min(model.latencies, key=lambda latency: latency.threads, default=None)
    return f"{fewest.median_ms:.1f}" if fewest else "–"
