"""Sections that are there where their figures are: thresholds, sizes, engines, advice, the synthetic-to-real gap."""

from typing import Any

import pytest

from eval_job.report import advice, engines, gap, sizes, thresholds
from eval_job.report.page import write_page
from schemas.engine_timing import OperatorTime, Spread, Throughput
from schemas.evaluation import EvalReport
from schemas.layer_study import Fidelity, LayerFidelity, LayerGap, Parts, Remedy
from schemas.operating_point import (
    ClassChange,
    ClassChanges,
    ConfidenceShift,
    DeploymentRecall,
    MatchedThreshold,
    OperatingPoint,
)
from schemas.target import Census, FloatLayer
from tests.eval_job.report.test_page import text_of


def point(threshold: float, recall: float) -> OperatingPoint:
    return OperatingPoint(threshold=threshold, recall=recall, precision=0.8, boxes=120)


def fidelity(decibels: float) -> Fidelity:
    return Fidelity(snr_db=decibels, cosine=0.9)


def gap_of(*pairs: tuple[float, float]) -> LayerGap:
    layers = tuple(
        LayerFidelity(name=f"layer {n}", calibration=fidelity(a), real=fidelity(b)) for n, (a, b) in enumerate(pairs)
    )
    return LayerGap(model="QAT W4A8 deploy", calibration_images=16, real_images=16, layers=layers)


PARTS = Parts(
    model="QAT W4A8 deploy", images=64, full_precision=0.5, student=0.45, weights_only=0.455, activations_only=0.49,
    plainly_rounded=0.2,
    remedies=tuple(
        Remedy(kind=kind, settings=(setting,), mean_weight_bits=bits, map50_95=0.3, recovered=recovered)
        for kind, setting, bits, recovered in (
            ("mixed", "sensitivity.budget=5", 5.0, 0.9), ("weights", "bits.weight_bits=6", 6.0, 0.7),
            ("layers", "bits.layers={a.conv: 8, b: 8}", 4.3, 0.3), ("mixed", "sensitivity.budget=4.05", 4.05, 0.01),
        )
    ),
)  # fmt: skip


@pytest.fixture
def full(exported: EvalReport) -> EvalReport:
    """The evaluation with everything that its rows can say."""
    recall = DeploymentRecall(
        point=point(0.25, 0.6), small=0.2, medium=None, large=0.9, per_class={"cat": 0.7, "dog": 0.5}
    )
    changes = ClassChanges(
        tested=2, least_images=10, false_discovery_rate=0.05,
        changed=(ClassChange(name="dog", change=-0.1, low=-0.15, high=-0.05, p_value=0.001),),
    )  # fmt: skip
    shift = ConfidenceShift(
        confidence=0.25, pairs=30, missed=2, mean=-0.04, low=-0.1, high=0.02,
        per_class={"cat": -0.01, "dog": -0.07}, pairs_per_class={"cat": 4, "dog": 26},
    )  # fmt: skip
    model = exported.models[-1]
    changed = model.model_copy(
        update={
            "deployed": recall,
            "class_changes": changes,
            "confidence_shift": shift,
            "thresholds": (
                MatchedThreshold(by="recall", full_precision=point(0.25, 0.62), unchanged=point(0.25, 0.6),
                                 matched=point(0.231, 0.62)),
                MatchedThreshold(by="recall", full_precision=point(0.5, 0.5), unchanged=point(0.5, 0.4), matched=None),
            ),
            "census": Census(by="onnxruntime 1", integer={"QLinearConv": 81}, floating={"Conv": 7}, float_layers=(
                FloatLayer(name="dfl", reason="what it gives is decoded in float"),)),
            "operator_times": tuple(
                OperatorTime(kind=kind, where=where, count=2, milliseconds=ms)
                for kind, where, ms in (("QLinearConv", "integer", 6.0), ("Conv", "float", 1.5),
                                        ("QuantizeLinear", "conversion", 0.5))
            ),
            "throughput": tuple(
                Throughput(engine="onnxruntime CPU", threads=2, batch=n, images_per_second=50.0 * n, repetitions=3)
                for n in (1, 8)
            ),
            "latencies": tuple(
                each.model_copy(update={"p5_ms": 4.0, "speed_up": Spread(median=1.7, low=1.5, high=1.9)})
                for each in model.latencies
            ),
        }
    )  # fmt: skip
    return exported.model_copy(
        update={"models": (*exported.models[:-1], changed), "parts": PARTS, "layer_gaps": (gap_of((20, 12), (15, 9)),)}
    )


@pytest.fixture
def text(full: EvalReport, run: Any, tmp_path: Any) -> str:
    write_page(full, run.evaluation, [run.student], run.calibration_set, tmp_path / "page.html")
    return text_of((tmp_path / "page.html").read_text())


def test_the_threshold_to_filter_at_is_said_first(text: str) -> None:
    assert "Filter QAT W4A8 deploy, onnxruntime at 0.231 where full precision is filtered at 0.25" in text
    assert "0.5 recall 50.0 % 40.0 % none – –" in text
    assert "dog -0.070 26" in text and "cat -0.010 4" not in text  # of 4 pairs no mean is shown


def test_sizes_and_what_changed_beyond_chance(text: str, full: EvalReport) -> None:
    assert "onnxruntime – 0.450 0.450 20.0 % – 90.0 % 60.0 %" in text
    assert "2 of 2 classes are on 10 images or more and were tested. Beyond chance changed dog (-0.100" in text
    none = full.models[-1].class_changes
    assert none is not None
    untested = full.models[-1].model_copy(update={"class_changes": none.model_copy(update={"tested": 0})})
    report = full.model_copy(update={"models": (*full.models[:-1], untested)})
    assert "No class is on 10 images or more" in sizes.chance(report, untested.name)
    assert sizes.chance(full, full.models[0].name) == ""


def test_engines_say_what_runs_in_integers_and_where_the_time_goes(text: str) -> None:
    assert "what runs in integers, 75.0 % of the time" in text
    assert "in integers 81 QLinearConv in float 7 Conv 1 layer in float what it gives is decoded in float dfl" in text
    assert "QLinearConv integer 6.00 2" in text
    assert "onnxruntime CPU 2 50.0 400.0" in text
    assert "8.50 4.00–9.00 – 1.50–1.90 50" in text


def test_many_kinds_of_operators_are_summed_up(full: EvalReport) -> None:
    times = tuple(OperatorTime(kind=f"k{n}", where="float", count=1, milliseconds=1.0) for n in range(12))
    model = full.models[-1].model_copy(update={"operator_times": times})
    (file,) = engines.engine_files(full.model_copy(update={"models": (model,)}))
    assert [row.kind for row in file.operators][-1] == "4 other kinds" and file.operators[-1].milliseconds == "4.00"


def test_advice_is_three_commands_those_that_give_back_most_first(text: str) -> None:
    assert "Of 0.050 that QAT W4A8 deploy loses, most is due to its weights" in text
    assert text.index("--set sensitivity.budget=5") < text.index("--set bits.weight_bits=6")
    assert "--set 'bits.layers={a.conv: 8, b: 8}'" in text
    assert "sensitivity.budget=4.05" not in text


def test_parts_that_cost_nothing_are_said_to_cost_nothing() -> None:
    nothing = PARTS.model_copy(update={"student": 0.5, "weights_only": 0.5, "activations_only": 0.499})
    assert "Neither weights nor activations" in advice.sentence(nothing)
    activations = PARTS.model_copy(update={"activations_only": 0.3})
    assert "most is due to its activations" in advice.sentence(activations)


def test_the_gap_is_put_into_words(text: str) -> None:
    assert "clearly further from full precision than on the set (-7.0 dB in the median)" in text
    assert "The gap is widest at layer 0 (-8.0 dB)." in text
    assert "The synthetic images stand for photographs" in gap.sentence(gap_of((10, 10.2), (9, 8.9)), "photographs")
    assert "somewhat further" in gap.sentence(gap_of((10, 8)), "photographs")
    assert "ask more of the network" in gap.sentence(gap_of((10, 14)), "photographs")
    alone = LayerGap(
        model="m", calibration_images=4, real_images=0,
        layers=(LayerFidelity(name="a", calibration=fidelity(3), real=None),),
    )  # fmt: skip
    assert "Measured on the calibration set alone" in gap.sentence(alone, "photographs")


def test_an_older_evaluation_has_none_of_these_sections(exported: EvalReport, run: Any, tmp_path: Any) -> None:
    assert thresholds.thresholds(exported) is None and advice.advice(exported) is None and gap.gaps(exported) == []
    write_page(exported, run.evaluation, [run.student], run.calibration_set, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert 'id="thresholds"' not in html and 'id="advice"' not in html
