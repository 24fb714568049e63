"""How fast exported models are against the full-precision detector in the same engine."""

from collections.abc import Iterator

from eval_job.report.headline import Fact
from schemas.evaluation import EvalReport, EvaluatedModel, Latency

SMALL_MS = 10.0
"""Below this time of one image, full precision on one thread, what surrounds the layers counts as much as they do."""


def speed_up(report: EvalReport, latency: Latency) -> float | None:
    """Times as fast as full precision in single precision, in the same engine with as many threads."""
    for full in _full_precision(report):
        for each in full.latencies:
            if (each.engine, each.threads) == (latency.engine, latency.threads):
                return each.median_ms / latency.median_ms
    return None


def facts(report: EvalReport) -> list[Fact]:
    """The fastest file of each engine, and what explains one that is slower than full precision."""
    return [fact for engine in _engines(report) if (fact := _fact(report, engine))]


def _fact(report: EvalReport, engine: str) -> Fact | None:
    students = [model for model in report.models if model.student is not None]
    timed = [
        (ratio, model, latency)
        for model in students
        for latency in model.latencies
        if latency.engine == engine and (ratio := speed_up(report, latency)) is not None
    ]
    if not timed:
        return None
    fewest = min(latency.threads for _, _, latency in timed)
    ratio, model, latency = max((each for each in timed if each[2].threads == fewest), key=lambda each: each[0])
    full_ms = ratio * latency.median_ms
    threads = "1 thread" if fewest == 1 else f"{fewest} threads"
    times = f"{latency.median_ms:.1f} ms against {full_ms:.1f} ms an image, {threads}"
    if ratio >= 1:
        return Fact(f"Speed in {engine}", f"{model.name} is {ratio:.2f} times as fast as full precision ({times})")
    text = f"{model.name} is slower than full precision ({times})"
    if full_ms < SMALL_MS:
        text += (
            f"; at {report.data.image_size.in_words} this network is so small that starting its layers and converting "
            "between floats and integers cost more than integer arithmetic saves"
        )
    return Fact(f"Speed in {engine}", text, warns=True)


def _full_precision(report: EvalReport) -> Iterator[EvaluatedModel]:
    """The teacher's files, single precision first."""
    return (model for model in report.models if model.file_bytes is not None and model.label_mode is None)


def _engines(report: EvalReport) -> list[str]:
    return list(dict.fromkeys(latency.engine for model in report.models for latency in model.latencies))
