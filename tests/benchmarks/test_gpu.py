"""Every path of the GPU's benchmark on a CPU: graphs are left out, and nothing is compiled beyond its trace."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as benchmark
from benchmarks.gpu.arithmetic import Arithmetic, computing_in
from benchmarks.gpu.budget import Budget, Outcome, deadline
from benchmarks.gpu.graphs import GraphedNetwork, uncaptured
from benchmarks.gpu.page import page, verdict
from benchmarks.gpu.roofline import Floor, Operation, Peaks, count
from benchmarks.gpu.variants import Mode
from benchmarks.speed.steps import boxes
from detectors.protocol import Detector
from schemas.errors import VerificationError
from schemas.synth_config import Precision
from synth_job.initialisation import sample_generator
from synth_job.inversion import Course, Inversion

SMALL: dict[str, Any] = {
    "teacher": "embedded", "device": "cpu", "size": 64, "batch": 2, "steps": 1, "rounds": 1, "minutes": 5.0,
    "each": 5.0, "backend": "eager",
}  # fmt: skip
SYNTHESIS = "synthesis, fp32, eager|synthesis, bf16, (eager|graphs|compiled)"
EVERY_PATH = f"^({SYNTHESIS}|sets.*|qat, (fp32|bf16), eager|qat, .*compiled)$"


@pytest.fixture(scope="module")
def teacher(small_teacher: Detector) -> Detector:
    return small_teacher


def measured(folder: Path, only: str, **changes: Any) -> Any:
    benchmark.main(folder, **(SMALL | {"only": only} | changes))
    return json.loads((folder / "gpu.json").read_text())


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `torch.compile` is asked for; networks stay as they are, since to trace one takes longer than all else."""
    asked: list[dict[str, Any]] = []

    def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        asked.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compiled)
    return asked


def test_every_kind_of_variant_is_measured_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], traced: list[dict[str, Any]]
) -> None:
    found = measured(tmp_path, EVERY_PATH)

    rows = {row["name"]: row for row in found["rows"]}
    assert {name: row["reason"] for name, row in rows.items() if row["reason"] is not None} == {}
    assert len(rows) == 8
    assert traced == [{"backend": "eager", "dynamic": False}] * 3, "a teacher to invert, a student and its teacher"
    assert rows["sets of both devices verify"]["values"]["same_bytes"], "both were made on the CPU"
    for name in ("synthesis, fp32, eager", "qat, fp32, eager"):
        values = rows[name]["values"]
        assert values["share_of_floor"] >= max(values["share_of_operations"], values["share_of_bytes"]) > 0
        assert values["peak_gb"] > 0.1
    step = rows["synthesis, fp32, eager"]["values"]
    assert step["images_per_second"] == pytest.approx(2 / 100 / step["step_seconds"]), "100 steps an image by default"
    text = (tmp_path / "gpu.md").read_text()
    assert text in capsys.readouterr().out
    assert "| synthesis, bf16, graphs |" in text and "the bar is 3" in text


def test_graphs_of_compiled_networks_are_asked_of_the_compiler(traced: list[dict[str, Any]]) -> None:
    Mode.BOTH.compiled(abs, "inductor")
    assert traced == [{"backend": "inductor", "dynamic": False, "mode": "reduce-overhead"}]


def test_a_compiled_function_computes_the_same() -> None:
    compiled = Mode.COMPILED.compiled(lambda x: x.exp() + 1, "eager")
    assert torch.equal(compiled(torch.ones(3)), torch.ones(3).exp() + 1)


def test_what_fails_is_a_line_and_the_rest_goes_on(tmp_path: Path) -> None:
    found = measured(tmp_path, "^synthesis, (bf16, compiled|tf32, graphs)$", backend="there is no such backend")

    compiled, graphs = found["rows"]
    assert "there is no such backend" in compiled["reason"] and "\n" not in compiled["reason"]
    assert graphs["reason"] is None
    assert found["bar"]["met"] is None, "eager fp32 was not measured"


def test_what_the_budget_leaves_no_time_for_is_named(tmp_path: Path) -> None:
    found = measured(tmp_path, "eager", minutes=0.0)

    assert {row["reason"] for row in found["rows"]} == {"skipped: the budget of time is spent"}
    assert "- qat, fp32, eager: skipped" in (tmp_path / "gpu.md").read_text()


def test_work_ends_at_its_deadline_also_where_the_first_word_is_lost() -> None:
    def stubborn() -> dict[str, Any]:
        for _ in range(2):
            try:
                time.sleep(60)
            except BaseException:  # as Python does in the callback of a weak reference
                continue
        return {"it": "went on"}

    def endless() -> dict[str, Any]:
        try:
            time.sleep(60)
        except Exception as error:
            raise AssertionError("a handler of errors takes the end of time for one") from error
        return {}

    budget = Budget(60, 0.01)
    assert budget.run("endless", endless).reason == "not finished within 0 s"
    assert budget.run("stubborn", stubborn).values == {"it": "went on"}, "each sleep was ended"
    with deadline(60):
        pass
    time.sleep(0)


def test_graphs_around_nothing_give_the_images_of_the_product(teacher: Detector) -> None:
    start = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = boxes(2, 64, len(teacher.identity.class_names))
    plain, graphed = (Inversion(teacher, Precision.FLOAT32) for _ in range(2))
    network = GraphedNetwork(graphed, uncaptured)
    one, other = (each.run(start, labels, Course(3, 0.05), sample_generator(0, 0)) for each in (plain, graphed))

    assert torch.equal(one, other)
    assert len(network._graphs) > 0, "it was run"


def test_operations_and_bytes_are_those_of_the_formula() -> None:
    images = torch.zeros(2, 3, 8, 8, requires_grad=True)
    weight = torch.zeros(4, 3, 3, 3)

    forward, backward = count(lambda: torch.conv2d(images, weight, padding=1).exp().sum().backward())

    operations = 2 * 2 * 4 * 8 * 8 * 3 * 9
    assert forward == Operation(operations, 4 * (2 * 3 * 64 + 4 * 27 + 2 * 4 * 64))
    assert backward.operations == operations, "to the images alone"


def test_the_floor_takes_of_each_operation_what_lasts_longer() -> None:
    peaks = Peaks(dict.fromkeys(Arithmetic, 10.0), 100.0)

    floor = Floor.of([Operation(20, 100), Operation(10, 500)], peaks, Arithmetic.FP32)

    assert (floor.operations, floor.bytes, floor.seconds) == (3.0, 6.0, 2.0 + 5.0)


def test_precision_is_as_before_afterwards() -> None:
    places = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [place.fp32_precision for place in places]
    with computing_in(Arithmetic.FP32):
        assert [place.fp32_precision for place in places] == ["ieee", "ieee"]
    with pytest.raises(RuntimeError), computing_in(Arithmetic.TF32):
        assert [place.fp32_precision for place in places] == ["tf32", "tf32"]
        raise RuntimeError
    assert [place.fp32_precision for place in places] == before


def test_a_set_that_does_not_verify_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object) -> dict[str, Any]:
        raise VerificationError("calib-000000.tar: content does not match its digest")

    monkeypatch.setattr(benchmark, "both_verify", damaged)
    (row,) = measured(tmp_path, "^sets")["rows"]
    assert row["reason"] == "VerificationError: calib-000000.tar: content does not match its digest"


@pytest.mark.parametrize(("speed", "met"), [(2.99, False), (3.0, True)])
def test_the_bar_is_three_times_eager_fp32(speed: float, met: bool) -> None:
    def outcome(name: str, speed: float) -> Outcome:
        return Outcome(name, None, {"step_seconds": 1.0, "images_per_second": speed, "peak_gb": None})

    outcomes = [outcome("synthesis, fp32, eager", 1.0), outcome("synthesis, x", speed), outcome("qat, x", 99.0)]
    assert verdict(outcomes)["met"] is met
    assert f"makes {speed:.2f} times" in page({}, outcomes)
