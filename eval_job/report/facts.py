"""All short statements under the verdict, for the page and for the summary."""

from eval_job.report import arithmetic, headline, speed
from schemas.evaluation import EvalReport


def facts(report: EvalReport) -> list[headline.Fact]:
    """Data, speed, and arithmetic that went wrong, in this order."""
    return [*headline.facts(report), *speed.facts(report), *arithmetic.facts(report)]
