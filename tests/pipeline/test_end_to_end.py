"""The whole pipeline as a user runs it: three real processes, with the smallest settings; also see `tests/docker`."""

import ast
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import yaml
from PIL import Image

from detectors.embedded.scenes import CLASS_NAMES, VALIDATION_SEED, render_scene
from schemas.calibration_set import ImageSource, LabelMode
from schemas.evaluation import EvalReport
from schemas.image_size import ImageSize
from schemas.student import StudentManifest, TrainingMethod
from stages.shards import open_calibration_set

SMALLEST = {
    "image_size": 96, "synth.images": 2, "synth.labels.size": 64, "synth.labels.iterations": 3,
    "synth.labels.warm_up": 1, "synth.labels.interval": 1, "synth.inversion.iterations": 2,
    "qat.steps": 2, "qat.batch": 2, "qat.keep_better": False, "eval.batch": 64, "eval.onnx.repetitions": 2,
    "eval.onnx.threads": [1], "eval.onnx.batches": [1],
}  # fmt: skip
SCENES = 24


def zsq_run(storage: Path, dry_run: bool = False, **changes: object) -> subprocess.CompletedProcess[str]:
    settings = [part for key, value in (SMALLEST | changes).items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "pipeline.cli", "run", "--storage", str(storage), *settings]
    command += ["--dry-run"] if dry_run else []
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """The first of the scenes that the embedded detector is evaluated on, as a data set of Ultralytics' layout."""
    for folder in ("images/val", "labels/val"):
        (tmp_path / "scenes" / folder).mkdir(parents=True)
    for index in range(SCENES):
        scene = render_scene(VALIDATION_SEED, index)
        side = scene.image.shape[0]
        Image.fromarray(scene.image).save(tmp_path / f"scenes/images/val/{index}.png")
        rows = [
            f"{category} {(x0 + x1) / 2 / side} {(y0 + y1) / 2 / side} {(x1 - x0) / side} {(y1 - y0) / side}\n"
            for category, (x0, y0, x1, y1) in zip(scene.classes, scene.boxes, strict=True)
        ]
        (tmp_path / f"scenes/labels/val/{index}.txt").write_text("".join(rows))
    described = {"path": ".", "val": "images/val", "names": list(CLASS_NAMES)}
    (tmp_path / "scenes/data.yaml").write_text(yaml.safe_dump(described))
    return tmp_path / "scenes/data.yaml"


@pytest.mark.usefixtures("cut_network")
def test_a_run_leaves_set_student_and_report_and_a_second_run_is_up_to_date(
    small_checkpoint: Path, scenes: Path, tmp_path: Path
) -> None:
    own = {"teacher.path": small_checkpoint, "eval.data": scenes}
    tmp_path /= "run"
    first = zsq_run(tmp_path, **own)
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
    assert (report.data.image_size, report.data.images) == (ImageSize.square(96), SCENES)
    assert report.models[0].precision.map50_95 > 0.3

    page = (tmp_path / "eval" / "report.html").read_bytes()
    rebuilt = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "report", str(tmp_path), "--output", str(tmp_path / "again.html")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert (tmp_path / "again.html").read_bytes() == page

    second = zsq_run(tmp_path, **own)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("up to date") == 3

    dry = {"dry_run": True} | own
    assert f"# output: {tmp_path}: up to date" in zsq_run(tmp_path, **dry).stdout
    for changed, said in (
        ({"eval.samples": 5}, "eval holds the output of another eval run (samples: 6 → 5)"),
        ({"qat.steps": 3}, "student holds the output of another qat run (steps: 2 → 3)"),
    ):
        assert said in zsq_run(tmp_path, **dry, **changed).stderr
    (tmp_path / "calibration/manifest.json").unlink()
    assert said in zsq_run(tmp_path, **dry, **changed).stderr, "before the set is made again"


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
