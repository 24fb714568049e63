"""Files that keep much less than the student that they were made from: their engine computes something else."""

from eval_job.report.headline import Fact
from eval_job.report.wording import percent
from schemas.evaluation import EvalReport, EvaluatedModel

NOTABLE_LOSS = 0.03
"""Of full precision, that a file keeps less than its student: rounding in another place costs a fraction of it."""


def facts(report: EvalReport) -> list[Fact]:
    """What a reader should know of each file that lost much more than the simulated student did."""
    rows = {model.name: model for model in report.models}
    pairs = [(model, rows[model.student]) for model in report.models if model.student in rows]
    return [_fact(file, student) for file, student in pairs if _lost(file, student) > NOTABLE_LOSS]


def _lost(file: EvaluatedModel, student: EvaluatedModel) -> float:
    return student.share_of_full_precision - file.share_of_full_precision


def _fact(file: EvaluatedModel, student: EvaluatedModel) -> Fact:
    text = (
        f"{file.name} keeps {percent(file.share_of_full_precision)} where the student it was made from keeps "
        f"{percent(student.share_of_full_precision)}. A known cause: x86 processors without VNNI instructions add "
        "products of 8 bits in 16 bits, which overflow; weights of a reduced range (qat.bits.reduce_range) never do "
        "(docs/engines.md)"
    )
    return Fact(f"Arithmetic of {file.engine or 'the engine'}", text, warns=True)
