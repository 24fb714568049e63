"""The page says of a file that its engine computes other sums than the student does."""

from eval_job.report.facts import facts
from schemas.evaluation import EvalReport


def warnings(report: EvalReport, share: float) -> list[str]:
    """Statements about arithmetic where the file keeps `share` less than the student."""
    file = report.models[-1]
    student = next(model for model in report.models if model.name == file.student)
    lower = file.model_copy(update={"share_of_full_precision": student.share_of_full_precision - share})
    changed = report.model_copy(update={"models": (*report.models[:-1], lower)})
    return [fact.text for fact in facts(changed) if fact.term.startswith("Arithmetic") and fact.warns]


def test_a_file_that_loses_much_more_than_its_student_is_explained(exported: EvalReport) -> None:
    (said,) = warnings(exported, 0.15)
    assert "VNNI" in said and "reduce_range" in said and exported.models[-1].name in said


def test_rounding_in_another_place_is_no_reason_to_warn(exported: EvalReport) -> None:
    assert warnings(exported, 0.01) == []
