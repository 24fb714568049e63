"""The whole pipeline as a user runs it: three real processes, on the embedded teacher, with the smallest settings."""

import ast
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from schemas.calibration_set import ImageSource, LabelMode
from schemas.evaluation import EvalReport
from schemas.image_size import ImageSize
from schemas.student import StudentManifest, TrainingMethod
from stages.shards import open_calibration_set

SMALLEST = {
    "image_size": 96, "synth.images": 2, "synth.labels.size": 64, "synth.labels.iterations": 3,
    "synth.labels.warm_up": 1, "synth.labels.interval": 1, "synth.inversion.iterations": 2,
    "qat.steps": 2, "qat.batch": 2, "qat.keep_better": False, "eval.batch": 64, "eval.onnx.repetitions": 2,
}  # fmt: skip


def zsq_run(storage: Path, **changes: object) -> subprocess.CompletedProcess[str]:
    settings = [part for key, value in (SMALLEST | changes).items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "pipeline.cli", "run", "--storage", str(storage), *settings]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("cut_network")
def test_a_run_leaves_set_student_and_report_and_a_second_run_is_up_to_date(tmp_path: Path) -> None:
    first = zsq_run(tmp_path)
    assert first.returncode == 0, first.stderr

    calibration_set = open_calibration_set(tmp_path / "calibration").manifest
    assert calibration_set.label_mode is LabelMode.SAMPLED
    assert calibration_set.image_source is ImageSource.SYNTHESIZED
    student = StudentManifest.read(tmp_path / "student" / "student.json")
    assert student.calibration_set.digest == calibration_set.digest
    assert student.method is TrainingMethod.QAT
    report = EvalReport.read(tmp_path / "eval" / "report.json")
    bits = student.bits.name
    assert [model.name for model in report.models] == [
        "full precision", f"PTQ {bits}", f"QAT {bits}",
        "full precision ONNX FP32", "full precision ONNX FP16", f"QAT {bits}, onnxruntime",
        f"QAT {bits}, openvino",
    ]  # fmt: skip
    assert all(model.latencies and model.file_bytes for model in report.models[3:])
    assert report.data.image_size == ImageSize.square(96)

    page = (tmp_path / "eval" / "report.html").read_bytes()
    rebuilt = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "report", str(tmp_path), "--output", str(tmp_path / "again.html")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert (tmp_path / "again.html").read_bytes() == page

    second = zsq_run(tmp_path)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("up to date") == 3


@pytest.mark.slow
def test_a_run_at_height_and_width_ends_with_files_for_that_size(tmp_path: Path) -> None:
    finished = zsq_run(tmp_path, image_size="[96, 160]")
    assert finished.returncode == 0, finished.stderr
    size = ImageSize(96, 160)
    calibration_set = open_calibration_set(tmp_path / "calibration")
    assert calibration_set.manifest.image_size == size
    assert {sample.image().shape for sample in calibration_set.samples} == {(96, 160, 3)}
    assert StudentManifest.read(tmp_path / "student" / "student.json").calibration_set.image_size == size
    report = EvalReport.read(tmp_path / "eval" / "report.json")
    assert report.data.image_size == size
    assert all(model.latencies for model in report.models[3:])
    full = report.models[0].precision.map50_95
    assert full > 0.1 and report.models[3].precision.map50_95 == pytest.approx(full, abs=1e-3), "in ONNX Runtime"
    metadata = {each.key: each.value for each in onnx.load(tmp_path / "student/model.onnxruntime.onnx").metadata_props}
    assert ast.literal_eval(metadata["imgsz"]) == [96, 160]
