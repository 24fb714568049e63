"""Exported files in their engines: what runs in integers, where the time goes, how fast they are, how sure that is."""

from dataclasses import dataclass

from eval_job.report.speed import speed_up
from eval_job.report.wording import percent
from schemas.engine_timing import OperatorTime
from schemas.evaluation import EvalReport, EvaluatedModel, Latency
from schemas.target import Census

KINDS = 8
"""Kinds of operators whose time is shown; the rest is summed up."""
STYLES = {"integer": "c3", "float": "c1", "conversion": "c5"}


@dataclass(frozen=True)
class LatencyRow:
    """One file in one engine with so many threads."""

    model: str
    engine: str
    threads: int
    median: str
    spread: str
    speed_up: str
    speed_up_spread: str
    runs: int


@dataclass(frozen=True)
class OperatorRow:
    """The time of one kind of operator."""

    kind: str
    where: str
    style: str
    count: str
    milliseconds: str
    share: float
    """Of the whole time."""


@dataclass(frozen=True)
class EngineFile:
    """What an engine makes of one file."""

    name: str
    by: str
    integer: str
    floating: str
    reasons: list[tuple[str, int, list[str]]]
    """Why layers are in float, how many, and which."""
    operators: list[OperatorRow]
    integer_time: str
    """Share of the time that is spent in integers; empty where no profile is there."""


@dataclass(frozen=True)
class ThroughputRow:
    """Images a second of a file in an engine, by batch size."""

    model: str
    engine: str
    threads: int
    by_batch: list[str]


def latency_rows(report: EvalReport) -> list[LatencyRow]:
    """Every latency of every file."""
    return [_latency(report, model, each) for model in report.models for each in model.latencies]


def engine_files(report: EvalReport) -> list[EngineFile]:
    """Every file whose census or profile is known."""
    return [_file(model) for model in report.models if model.census is not None or model.operator_times]


def throughput(report: EvalReport) -> tuple[list[int], list[ThroughputRow]]:
    """The batch sizes, and a row for each file and engine."""
    batches = sorted({each.batch for model in report.models for each in model.throughput})
    rows = []
    for model in report.models:
        for engine in dict.fromkeys(each.engine for each in model.throughput):
            there = {each.batch: each for each in model.throughput if each.engine == engine}
            cells = [f"{there[n].images_per_second:.1f}" if n in there else "–" for n in batches]
            rows.append(ThroughputRow(model.name, engine, next(iter(there.values())).threads, cells))
    return batches, rows


def _latency(report: EvalReport, model: EvaluatedModel, latency: Latency) -> LatencyRow:
    ratio = speed_up(report, latency)
    spread = latency.speed_up
    lowest = f"{latency.p5_ms:.2f}" if latency.p5_ms else "…"
    return LatencyRow(
        model=model.name,
        engine=latency.engine,
        threads=latency.threads,
        median=f"{latency.median_ms:.2f}",
        spread=f"{lowest}–{latency.p95_ms:.2f}",
        speed_up=f"{ratio:.2f}" if ratio else "–",
        speed_up_spread=f"{spread.low:.2f}–{spread.high:.2f}" if spread else "",
        runs=latency.repetitions,
    )


def _file(model: EvaluatedModel) -> EngineFile:
    census = model.census or Census(by=model.engine or "", integer={}, floating={}, float_layers=())
    reasons: dict[str, list[str]] = {}
    for layer in census.float_layers:
        reasons.setdefault(layer.reason, []).append(layer.name)
    total = sum(each.milliseconds for each in model.operator_times)
    integer = sum(each.milliseconds for each in model.operator_times if each.where == "integer")
    return EngineFile(
        name=model.name,
        by=census.by,
        integer=_counts(census.integer) if model.census else "not counted",
        floating=_counts(census.floating) if model.census else "not counted",
        reasons=[(reason, len(names), names) for reason, names in reasons.items()],
        operators=_operators(model.operator_times, total),
        integer_time=percent(integer / total) if total else "",
    )


def _counts(kinds: dict[str, int]) -> str:
    ordered = sorted(kinds.items(), key=lambda each: (-each[1], each[0]))
    return ", ".join(f"{count} {kind}" for kind, count in ordered) or "nothing"


def _operators(times: tuple[OperatorTime, ...], total: float) -> list[OperatorRow]:
    rows = [
        OperatorRow(
            each.kind,
            each.where,
            STYLES[each.where],
            str(each.count),
            f"{each.milliseconds:.2f}",
            each.milliseconds / total if total else 0.0,
        )
        for each in times[:KINDS]
    ]
    if rest := times[KINDS:]:
        left = sum(each.milliseconds for each in rest)
        count = str(sum(each.count for each in rest))
        rows.append(
            OperatorRow(f"{len(rest)} other kinds", "", "c0", count, f"{left:.2f}", left / total if total else 0)
        )
    return rows
