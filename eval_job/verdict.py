"""Whether a student reaches what `eval.require` asks for. Imports no torch."""

from eval_job.report.headline import headline_model
from eval_job.report.speed import speed_up
from schemas.errors import RequirementMissed
from schemas.evaluation import EvalReport, EvaluatedModel
from schemas.requirements import Judgement, Requirements, Verdict

NAMES = {"share": "share of full precision", "speed_up": "times as fast as FP32"}


def judge(report: EvalReport, requirements: Requirements | None) -> EvalReport:
    """The report with its verdict, and with the requirements among its settings."""
    verdict = None if requirements is None else _verdict(report, requirements)
    settings = report.eval.model_copy(update={"require": requirements})
    return report.model_copy(update={"verdict": verdict, "eval": settings})


def check_met(report: EvalReport) -> None:
    """Check that nothing was missed.

    Raises:
        RequirementMissed: something was; the line says what, by how much, and what to change.
    """
    verdict = report.verdict
    if verdict is None or verdict.met:
        return
    missed = "; ".join(describe(each) for each in verdict.judged if not each.met)
    judged = verdict.model or "the file that eval.require.target names"
    raise RequirementMissed(f"{judged} falls short: {missed}; the report says what costs most (Advice), eval.require")


def describe(judged: Judgement) -> str:
    """A judgement in words: `share of full precision 0.90, required 0.99`."""
    found = "was not measured" if judged.found is None else f"{judged.found:.3f}"
    return f"{NAMES[judged.requirement]} {found}, required {judged.required:g}"


def _verdict(report: EvalReport, requirements: Requirements) -> Verdict:
    model = _judged_model(report, requirements)
    judged = []
    if requirements.share is not None:
        judged.append(_share(model, requirements.share))
    if requirements.speed_up is not None:
        judged.append(_speed_up(report, model, requirements.speed_up))
    return Verdict(model=model.name if model else None, judged=tuple(judged))


def _judged_model(report: EvalReport, requirements: Requirements) -> EvaluatedModel | None:
    model = headline_model(report)
    if requirements.target is None:
        return model
    student = model.student or model.name
    files = (each for each in report.models if (each.student, each.target) == (student, requirements.target))
    return next(files, None)


def _share(model: EvaluatedModel | None, required: float) -> Judgement:
    if model is None:
        return Judgement(requirement="share", required=required, found=None, met=False)
    found, interval = model.share_of_full_precision, model.uncertainty.share if model.uncertainty else None
    return Judgement(
        requirement="share",
        required=required,
        found=found,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        met=found >= required,
    )


def _speed_up(report: EvalReport, model: EvaluatedModel | None, required: float) -> Judgement:
    timed = [
        (latency.threads, ratio)
        for latency in (model.latencies if model else ())
        if (ratio := speed_up(report, latency)) is not None
    ]
    found = min(timed)[1] if timed else None
    met = found is not None and found >= required
    return Judgement(requirement="speed_up", required=required, found=found, met=met)
