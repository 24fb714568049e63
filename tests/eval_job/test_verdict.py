"""What is required of a student decides the exit code, without a second evaluation."""

import pytest
from pydantic import ValidationError

from eval_job.report.pull_request import summary
from eval_job.verdict import check_met, judge
from schemas.errors import RequirementMissed
from schemas.evaluation import EvalReport, Latency, Measure
from schemas.requirements import Requirements
from schemas.target import Target
from tests.eval_job.report.conftest import exported, run  # noqa: F401

FP32 = "full precision ONNX FP32"


@pytest.fixture
def timed(exported: EvalReport) -> EvalReport:  # noqa: F811
    """The evaluation with the full-precision detector's file: the student is twice as fast on one thread."""
    latencies = tuple(each.model_copy(update={"median_ms": 17.0}) for each in exported.models[-1].latencies)
    full = exported.models[0].model_copy(update={"name": FP32, "file_bytes": 9, "latencies": latencies})
    return exported.model_copy(update={"models": (*exported.models, full)})


def test_what_is_reached_is_met_and_what_is_not_is_named(timed: EvalReport) -> None:
    met = judge(timed, Requirements(share=0.85, speed_up=1.9)).verdict
    assert met is not None and met.met
    assert met.model == "QAT W4A8 deploy, onnxruntime"
    assert [(each.found, each.low) for each in met.judged] == [(0.9, 0.85), (2.0, None)]

    missed = judge(timed, Requirements(share=0.99, speed_up=1.5))
    assert missed.verdict is not None and [each.met for each in missed.verdict.judged] == [False, True]
    with pytest.raises(RequirementMissed, match=r"share of full precision 0\.900, required 0\.99") as raised:
        check_met(missed)
    assert "times as fast" not in str(raised.value)
    assert raised.value.exit_code == 4


def test_a_bar_within_the_interval_is_said_to_be_close(timed: EvalReport) -> None:
    close, far = (judge(timed, Requirements(share=share)).verdict for share in (0.92, 0.95))
    assert close is not None and far is not None
    assert (close.judged[0].is_close, far.judged[0].is_close) == (True, False)  # 0.85 to 0.93


def test_what_was_not_measured_is_missed(timed: EvalReport) -> None:
    report = judge(timed, Requirements(speed_up=1.0, target=Target.OPENVINO))
    assert report.verdict is not None and report.verdict.model is None and not report.verdict.met
    with pytest.raises(RequirementMissed, match="was not measured"):
        check_met(report)
    slow = timed.models[-2].model_copy(update={"latencies": ()})
    unmeasured = timed.model_copy(update={"models": (*timed.models[:-2], slow, timed.models[-1])})
    judged = judge(unmeasured, Requirements(speed_up=1.0)).verdict
    assert judged is not None and judged.judged[0].found is None and not judged.met


def test_a_slower_file_of_few_threads_decides_not_its_best_thread_count(timed: EvalReport) -> None:
    times = tuple(
        Latency(engine="onnxruntime CPU", threads=n, median_ms=ms, p95_ms=99, repetitions=5)
        for n, ms in ((1, 17.0), (2, 1.0))
    )
    model = timed.models[-2].model_copy(update={"latencies": times})
    report = judge(
        timed.model_copy(update={"models": (*timed.models[:-2], model, timed.models[-1])}), Requirements(speed_up=1.5)
    )
    assert report.verdict is not None and report.verdict.judged[0].found == 1.0


def test_requirements_that_ask_for_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="neither share nor speed_up"):
        Requirements(target=Target.OPENVINO)


def test_the_summary_says_the_verdict_and_escapes_names(timed: EvalReport) -> None:
    models = [each.model_copy(update={"name": f"{each.name} <b>|`"}) for each in timed.models]
    text = summary(judge(timed.model_copy(update={"models": tuple(models)}), Requirements(share=0.99)))
    assert ":x: **Fail**" in text and "| at least 99.0 % | 90.0 % (85.0 % to 93.0 %) | missed |" in text
    assert "<b>" not in text.replace("<sub>", "").partition("\n\n|")[2]
    table = [line for line in text.splitlines() if line.startswith("| ") and "deploy" in line]
    assert table and all(line.replace("\\|", "").count("|") == 7 for line in table)
    assert ":white_check_mark: **Pass**" in summary(judge(timed, Requirements(share=0.5)))
    assert "requirement" not in summary(timed)


def test_a_summary_of_agreement_says_agreement(timed: EvalReport) -> None:
    assert "agreement, mAP50-95" in summary(timed.model_copy(update={"measure": Measure.AGREEMENT}))
