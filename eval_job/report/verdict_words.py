"""A requirement and what was found, as a reader sees them."""

from collections.abc import Callable
from dataclasses import dataclass

from eval_job.report.wording import percent
from schemas.requirements import Judgement


@dataclass(frozen=True)
class Sentence:
    """One row of the table of requirements."""

    name: str
    required: str
    found: str
    outcome: str
    met: bool


def sentence_of(judged: Judgement) -> Sentence:
    """A judgement in words."""
    share = judged.requirement == "share"
    form: Callable[[float], str] = percent if share else _times
    found = "not measured" if judged.found is None else form(judged.found)
    if judged.found is not None and judged.low is not None and judged.high is not None:
        found += f" ({form(judged.low)} to {form(judged.high)})"
    outcome = "met" if judged.met else "missed"
    if judged.is_close:
        outcome += ", but the bar lies within the interval: other images might decide otherwise"
    name = "share of full precision" if share else "times as fast as FP32 in the same engine"
    return Sentence(name, f"at least {form(judged.required)}", found, outcome, judged.met)


def _times(value: float) -> str:
    return f"{value:.2f}"
