"""The page says of each engine which file is fastest there, and why one is slower than full precision."""

from eval_job.report.speed import facts, speed_up
from schemas.evaluation import EvalReport, Latency


def timed(report: EvalReport, full_ms: float) -> EvalReport:
    """The evaluation with the full-precision detector's file beside its exported student."""
    latencies = tuple(each.model_copy(update={"median_ms": full_ms}) for each in report.models[-1].latencies)
    full = report.models[0].model_copy(
        update={"name": "full precision ONNX FP32", "file_bytes": 9, "latencies": latencies}
    )
    return report.model_copy(update={"models": (*report.models, full)})


def test_a_faster_file_is_named_with_its_factor_on_one_thread(exported: EvalReport) -> None:
    (fact,) = facts(timed(exported, full_ms=17.0))
    assert fact.term == "Speed in onnxruntime CPU" and not fact.warns
    assert "QAT W4A8 deploy, onnxruntime is 2.00 times as fast" in fact.text
    assert "8.5 ms against 17.0 ms an image, 1 thread" in fact.text


def test_a_slower_file_is_said_to_be_slower_and_a_small_network_why(exported: EvalReport) -> None:
    (small,) = facts(timed(exported, full_ms=5.0))
    assert small.warns and "slower than full precision" in small.text and "this network is so small" in small.text
    slow = [Latency(engine="onnxruntime CPU", threads=1, median_ms=80.0, p95_ms=90.0, repetitions=50)]
    model = exported.models[-1].model_copy(update={"latencies": tuple(slow)})
    (large,) = facts(timed(exported.model_copy(update={"models": (*exported.models[:-1], model)}), full_ms=50.0))
    assert large.warns and "so small" not in large.text


def test_without_full_precision_in_the_engine_there_is_nothing_to_compare_with(exported: EvalReport) -> None:
    assert facts(exported) == []
    assert speed_up(exported, exported.models[-1].latencies[0]) is None
