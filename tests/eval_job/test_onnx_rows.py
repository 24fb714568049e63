"""Exported models stand in the report beside what they were exported from, once they are verified."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from detectors.protocol import Suppression
from eval_job import job, latency, onnx_model
from eval_job.__main__ import app
from quantization.onnx.engine import Images
from schemas.engine_timing import OperatorTime
from schemas.evaluation import EvalReport
from schemas.image_size import ImageSize
from schemas.qat_config import BitPolicy
from schemas.student import (
    ExportForm,
    OnnxManifest,
    OnnxParity,
    StudentManifest,
    TrainingMethod,
    export_provenance,
    onnx_manifest_path,
)
from schemas.target import Census, Target, exported_path
from stages.storage import file_digest

Run = Callable[..., Result]
FORM = ExportForm(target=Target.ONNXRUNTIME, image_size=64)
SPENT = OperatorTime(kind="QLinearConv", where="integer", count=3, milliseconds=1.5)
CENSUS = Census(by="onnxruntime", integer={"QLinearConv": 3}, floating={"Conv": 1}, float_layers=())


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, colour_teacher: Any) -> list[tuple[str, str, int | None]]:
    """Colour detectors for all models; an engine hands its images through. Lists file, engine and threads opened."""
    opened: list[tuple[str, str, int | None]] = []

    def open_engine(path: Path, engine: str = "onnxruntime", *, threads: int | None = None, providers: Any) -> Any:
        opened.append((path.name, engine, threads))
        return lambda images: images

    def export_full_precision(detector: Any, size: ImageSize, single: Path, half: Path) -> None:
        single.parent.mkdir(exist_ok=True)
        single.write_bytes(b"single")
        half.write_bytes(b"half")

    monkeypatch.setattr(type(colour_teacher), "suppress", type(colour_teacher).predict, raising=False)
    monkeypatch.setattr(job, "load_teacher", lambda source, device: colour_teacher)
    monkeypatch.setattr(
        job, "load_student", lambda folder, device: (colour_teacher, StudentManifest.read(folder / "student.json"))
    )
    monkeypatch.setattr(job, "open_engine", open_engine)
    monkeypatch.setattr(latency, "open_engine", open_engine)
    monkeypatch.setattr(latency, "operator_times", lambda path, engine, image: (SPENT,))
    monkeypatch.setattr(onnx_model, "export_full_precision", export_full_precision)
    return opened


@pytest.fixture
def run(opened: Any, teacher_file: Path, coco_file: Path, tmp_path: Path) -> Run:
    """Run the command on the drawn COCO file."""

    def invoke(*arguments: str) -> Result:
        settings = (f"teacher.path={teacher_file}", f"data={coco_file}", "device=cpu", "onnx.repetitions=2",
                    "onnx.threads=[1, 2]")  # fmt: skip
        pairs = [part for setting in settings for part in ("--set", setting)]
        return CliRunner().invoke(app, ["--output", str(tmp_path / "out"), *pairs, *arguments])

    return invoke


@pytest.fixture
def student(write_student: Callable[..., Path]) -> Path:
    """A trained student with its state before training, the trained one exported."""
    folder = write_student("student")
    write_student("student/ptq", TrainingMethod.PTQ)
    manifest, path = StudentManifest.read(folder / "student.json"), exported_path(folder, Target.ONNXRUNTIME)
    path.write_bytes(b"a model of 23 bytes, say")
    described = OnnxManifest(
        file=path.name, target=Target.ONNXRUNTIME, sha256=file_digest(path), bytes=path.stat().st_size, opset=21,
        image_size=64, student_sha256=manifest.weights_sha256, bits=BitPolicy(weight_bits=4), weight_tensors={},
        activation_tensors={}, float_layers=(), int4=False, onnx_version="1", onnxruntime_version="1",
        parity=OnnxParity(images=1, image_source="noise", score_max=0.0, score_mean=0.0, box_max=0.0, box_mean=0.0,
                          matched=1.0),
        census=CENSUS,
        provenance=export_provenance(manifest, FORM),
    )  # fmt: skip
    onnx_manifest_path(path).write_text(described.to_json(), encoding="utf-8")
    return folder


def add_file(student: Path, target: Target, **fields: Any) -> None:
    """The student's file for another target; `fields` of its manifest can be changed."""
    manifest, path = StudentManifest.read(student / "student.json"), exported_path(student, target)
    path.write_bytes(exported_path(student, Target.ONNXRUNTIME).read_bytes())
    written = OnnxManifest.read(onnx_manifest_path(exported_path(student, Target.ONNXRUNTIME)))
    form = ExportForm(target=target, image_size=64)
    changed = {"target": target, "file": path.name, "provenance": export_provenance(manifest, form)} | fields
    onnx_manifest_path(path).write_text(written.model_copy(update=changed).to_json(), encoding="utf-8")


def report(tmp_path: Path) -> EvalReport:
    return EvalReport.read(tmp_path / "out" / "report.json")


def test_exported_models_are_evaluated_and_timed_after_the_simulated_ones(
    run: Run, student: Path, tmp_path: Path
) -> None:
    result = run("--student", str(student))

    assert result.exit_code == 0, result.output
    models = report(tmp_path).models
    assert [model.name for model in models] == [
        "full precision", "PTQ W4A8 deploy", "QAT W4A8 deploy",
        "full precision ONNX FP32", "full precision ONNX FP16", "QAT W4A8 deploy, onnxruntime",
    ]  # fmt: skip
    assert [model.file_bytes for model in models] == [None, None, None, 6, 4, 24]
    assert all(model.latencies == () for model in models[:3])
    for model in models[3:]:
        assert [(timed.threads, timed.repetitions) for timed in model.latencies] == [(1, 2), (2, 2)]
        assert all(timed.engine.startswith("onnxruntime ") for timed in model.latencies)
        assert all(0 < timed.median_ms <= timed.p95_ms for timed in model.latencies)
        assert [each.batch for each in model.throughput] == [1, 8]
        assert model.operator_times == (SPENT,)
    assert all(timed.speed_up is None for timed in models[3].latencies)
    for timed in models[5].latencies:
        assert timed.speed_up is not None and timed.speed_up.low <= timed.speed_up.median <= timed.speed_up.high
    assert models[5].precision == models[0].precision
    assert models[5].weights_sha256 == file_digest(student / "model.onnxruntime.onnx")
    assert (models[3].label_mode, models[5].label_mode) == (None, "sampled")


def test_each_file_is_scored_in_the_engine_that_it_is_for(
    run: Run, student: Path, tmp_path: Path, opened: list[tuple[str, str, int | None]]
) -> None:
    add_file(student, Target.OPENVINO)
    assert run("--student", str(student), "--set", "onnx.models=students").exit_code == 0
    rows = report(tmp_path).models[3:]
    assert [row.name for row in rows] == ["QAT W4A8 deploy, onnxruntime", "QAT W4A8 deploy, openvino"]
    assert [row.student for row in rows] == ["QAT W4A8 deploy"] * 2
    assert [row.target for row in rows] == [Target.ONNXRUNTIME, Target.OPENVINO]
    assert all(row.engine and row.target and row.engine.startswith(row.target.value) for row in rows)
    assert all(row.census == CENSUS for row in rows)
    assert opened[-2:] == [("model.onnxruntime.onnx", "onnxruntime", None), ("model.openvino.onnx", "openvino", None)]
    timed = {(name, engine) for name, engine, threads in opened if threads}
    assert timed == {("model.onnxruntime.onnx", "onnxruntime"), ("model.openvino.onnx", "openvino")}


@pytest.fixture
def litert_student(student: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The student, exported for LiteRT alone, whose interpreter is here."""
    add_file(student, Target.LITERT, fixed_size=True, opset=None)
    for path in (exported_path(student, Target.ONNXRUNTIME), student / "model.onnxruntime.onnx.json"):
        path.unlink()
    monkeypatch.setattr(job, "installed_engines", lambda: ("onnxruntime", "litert"))
    return student


def test_a_litert_file_is_scored_and_timed_in_its_interpreter_alone(
    run: Run, litert_student: Path, tmp_path: Path, opened: list[tuple[str, str, int | None]]
) -> None:
    result = run("--student", str(litert_student), "--set", "image_size=64")
    assert result.exit_code == 0, result.output
    (row,) = report(tmp_path).models[3:]  # ONNX models of the teacher would have no times to compare with
    assert (row.name, row.target) == ("QAT W4A8 deploy, litert", Target.LITERT)
    assert row.engine is not None and row.engine.startswith("litert")
    assert [timed.engine for timed in row.latencies] == [row.engine] * 2
    assert {(name, engine) for name, engine, _ in opened} == {("model.litert.tflite", "litert")}


def test_a_file_of_another_size_is_left_out_and_named(run: Run, litert_student: Path, tmp_path: Path) -> None:
    result = run("--student", str(litert_student), "--set", "image_size=96")
    assert result.exit_code == 0, result.output
    said = "model.litert.tflite: not evaluated; it takes images of 64 px, not 96; export it with --image-size 96"
    assert said in result.output
    assert len(report(tmp_path).models) == 3


def test_a_litert_file_without_the_environment_is_left_out_and_named(
    run: Run, litert_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZSQ_LITERT_PYTHON", raising=False)
    monkeypatch.setattr(job, "installed_engines", lambda: ("onnxruntime",))
    result = run("--student", str(litert_student), "--set", "image_size=64")
    assert result.exit_code == 0, result.output
    assert "model.litert.tflite: not evaluated; set ZSQ_LITERT_PYTHON to the Python of" in result.output
    assert len(report(tmp_path).models) == 3


def test_a_file_whose_engine_is_not_installed_is_left_out_and_named(
    run: Run, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "installed_engines", lambda: ())
    result = run("--student", str(student))
    assert result.exit_code == 0
    assert "model.onnxruntime.onnx: not evaluated; pip install 'onnxruntime' to run it" in result.output
    assert len(report(tmp_path).models) == 3


def test_exported_models_can_be_left_out(run: Run, student: Path, tmp_path: Path) -> None:
    assert run("--student", str(student), "--set", "onnx.models=none").exit_code == 0
    assert len(report(tmp_path).models) == 3
    assert not list((tmp_path / "out").glob("*.onnx"))


def test_without_an_exported_student_the_teacher_is_not_exported(
    run: Run, write_student: Callable[..., Path], tmp_path: Path, opened: Any
) -> None:
    assert run("--student", str(write_student("plain"))).exit_code == 0
    assert len(report(tmp_path).models) == 2
    assert opened == []


def test_a_flipped_byte_in_an_exported_model_is_unverified_and_nothing_is_evaluated(
    run: Run, student: Path, tmp_path: Path, opened: Any
) -> None:
    (student / "model.onnxruntime.onnx").write_bytes(b"b model of 23 bytes, say")
    result = run("--student", str(student))

    assert result.exit_code == 3
    assert "model.onnxruntime.onnx: content does not match its digest" in result.stderr
    assert opened == []
    assert not (tmp_path / "out" / "report.json").exists()


def test_a_model_of_another_student_is_unverified(run: Run, student: Path, write_student: Callable[..., Path]) -> None:
    other = write_student("other")
    for name in ("model.onnxruntime.onnx", "model.onnxruntime.onnx.json"):
        (student / name).rename(other / name)
    result = run("--student", str(other))

    assert result.exit_code == 3
    assert "exported from another student" in result.stderr


def test_a_model_without_its_manifest_is_bad_input(run: Run, student: Path) -> None:
    (student / "model.onnxruntime.onnx.json").unlink()
    assert run("--student", str(student)).exit_code == 2


def test_another_export_makes_another_evaluation(run: Run, student: Path) -> None:
    assert run("--student", str(student)).exit_code == 0
    assert "up to date" in run("--student", str(student)).output
    for name in ("model.onnxruntime.onnx", "model.onnxruntime.onnx.json"):
        (student / name).unlink()
    assert "student 2 onnxruntime" in run("--student", str(student)).stderr


def test_models_take_turns_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def open_engine(path: Path, engine: str, **settings: Any) -> Callable[[Images], Images]:
        def run(images: Images) -> Images:
            assert images.shape == (1, 3, 64, 64)
            calls.append(path.name)
            return images

        return run

    monkeypatch.setattr(latency, "open_engine", open_engine)
    monkeypatch.setattr(latency, "operator_times", lambda path, engine, image: (SPENT,))
    measured = latency.measure_latencies(
        {"one": Path("a"), "two": Path("b")}, ImageSize.square(64), engine="onnxruntime", threads=[1], repetitions=4
    )
    assert calls == ["a", "b"] * (latency.WARM_UP + 4)
    assert {name: len(timed) for name, timed in measured.items()} == {"one": 1, "two": 1}


def test_an_exported_model_sees_the_images_and_the_family_suppresses(colour_teacher: Any) -> None:
    def engine(images: Images) -> Images:
        assert images.dtype == np.float32
        return images * 2

    def suppress(decoded: torch.Tensor, limits: Suppression) -> Any:
        return [decoded, limits]

    colour_teacher.suppress = suppress
    detector = onnx_model.OnnxDetector(engine, colour_teacher)
    limits = Suppression(0.1, iou=0.7, max_detections=3)
    decoded, passed = detector.predict(torch.ones(1, 3, 2, 2), limits)
    assert torch.equal(decoded, torch.full((1, 3, 2, 2), 2.0))  # type: ignore[arg-type]
    assert passed is limits
