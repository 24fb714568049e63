import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

from eval_job import job
from eval_job.__main__ import app
from schemas.evaluation import EvalReport
from schemas.image_size import ImageSize
from schemas.student import StudentManifest, TrainingMethod

Run = Callable[..., Result]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch, colour_teacher: Any) -> list[str]:
    """Put colour detectors in the place of teacher and students; lists what was loaded."""
    loaded: list[str] = []

    def load_teacher(source: object, device: torch.device) -> Any:
        loaded.append("teacher")
        return colour_teacher

    def load_student(folder: Path, device: torch.device) -> tuple[Any, StudentManifest]:
        loaded.append(folder.name)
        manifest = StudentManifest.read(folder / "student.json")
        student = type(colour_teacher)(
            manifest.teacher.sha256, shift=3.0 if manifest.method is TrainingMethod.PTQ else 1.0
        )
        return student, manifest

    monkeypatch.setattr(job, "load_teacher", load_teacher)
    monkeypatch.setattr(job, "load_student", load_student)
    return loaded


@pytest.fixture
def run(loads: list[str], teacher_file: Path, coco_file: Path, tmp_path: Path) -> Run:
    """Run the command on the drawn COCO file; later assignments win."""

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(
            app,
            ["--output", str(tmp_path / "out"), "--set", f"teacher.path={teacher_file}", "--set", f"data={coco_file}",
             "--set", "device=cpu", *arguments],
        )  # fmt: skip

    return invoke


@pytest.fixture
def trained(write_student: Callable[..., Path]) -> Path:
    """A trained student with its state before training."""
    folder = write_student("student")
    write_student("student/ptq", TrainingMethod.PTQ)
    return folder


def report(tmp_path: Path) -> EvalReport:
    return EvalReport.read(tmp_path / "out" / "report.json")


def test_a_teacher_that_finds_everything_scores_one(run: Run, tmp_path: Path) -> None:
    result = run()

    assert result.exit_code == 0, result.output
    (model,) = report(tmp_path).models
    assert model.name == "full precision"
    assert model.precision.map50_95 == pytest.approx(1, abs=1e-6)
    assert model.share_of_full_precision == 1
    assert model.per_class == {"red": pytest.approx(1), "green": pytest.approx(1)}
    assert report(tmp_path).data.model_dump(exclude={"digest", "source"}) == {
        "format": "coco", "label_confidence": None, "images": 3, "boxes": 3, "image_size": 64,
    }  # fmt: skip


def test_coco_and_yolo_data_give_the_same_precision(
    run: Run, tmp_path: Path, yolo_folder: Path, coco_file: Path
) -> None:
    assert run().exit_code == 0
    coco = report(tmp_path).models[0].precision
    coco_file.unlink()
    assert run("--overwrite", "--set", f"data={yolo_folder}").exit_code == 0

    assert report(tmp_path).data.format == "yolo"
    assert report(tmp_path).models[0].precision == coco


def test_voc_data_are_measured_by_both_definitions_too(run: Run, tmp_path: Path, voc_folder: Path) -> None:
    result = run("--set", f"data={voc_folder}")

    assert result.exit_code == 0, result.output
    written = report(tmp_path)
    assert (written.data.format, written.data.images, written.data.boxes) == ("voc", 2, 3)
    voc = written.models[0].voc
    assert voc is not None
    assert (voc.eleven_point, voc.all_point, voc.per_class) == (1, 1, {"red": 1, "green": 1})
    assert written.models[0].precision.map50_95 == pytest.approx(1, abs=1e-6)
    (table,) = [event for line in result.output.splitlines() if (event := json.loads(line))["event"] == "table"]
    assert table["columns"][-2:] == ["VOC 11-point", "VOC all-point"]
    assert table["rows"][0][-2:] == ["1.000", "1.000"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "VOC AP50, 11-point" in page and "Objects marked difficult neither count nor hurt" in page


def test_students_stand_beside_full_precision_before_and_after_training(
    run: Run, trained: Path, tmp_path: Path, loads: list[str]
) -> None:
    result = run("--student", str(trained))

    assert result.exit_code == 0, result.output
    assert loads == ["teacher", "ptq", "student"]
    full, ptq, qat = report(tmp_path).models
    assert [full.name, ptq.name, qat.name] == ["full precision", "PTQ W4A8 deploy", "QAT W4A8 deploy"]
    assert [full.calibrated, ptq.calibrated, qat.calibrated] == [None, None, ptq.name]
    assert [full.bits, ptq.bits, qat.bits] == [None, "W4A8 deploy", "W4A8 deploy"]
    assert full.precision.map50_95 > qat.precision.map50_95 > ptq.precision.map50_95
    assert qat.share_of_full_precision == pytest.approx(qat.precision.map50_95 / full.precision.map50_95)
    assert (full.label_mode, qat.label_mode) == (None, "sampled")
    (table,) = [event for line in result.output.splitlines() if (event := json.loads(line))["event"] == "table"]
    assert table["columns"] == ["model", "mAP50-95", "mAP50", "share of FP"]
    assert [row[0] for row in table["rows"]] == [full.name, ptq.name, qat.name]


def test_detections_are_coco_results_in_the_ids_of_the_data(run: Run, trained: Path, tmp_path: Path) -> None:
    assert run("--student", str(trained)).exit_code == 0

    names = sorted(path.name for path in (tmp_path / "out").glob("detections-*.json"))
    assert names == [
        "detections-full-precision.json", "detections-ptq-w4a8-deploy.json", "detections-qat-w4a8-deploy.json",
    ]  # fmt: skip
    results = json.loads((tmp_path / "out" / names[0]).read_text())
    assert {(row["image_id"], row["category_id"]) for row in results} == {(11, 7), (11, 3), (12, 3)}
    first = next(row for row in results if row["category_id"] == 7)
    assert first["bbox"] == pytest.approx([4, 8, 20, 16])


def test_students_of_the_same_name_are_told_apart(run: Run, write_student: Callable[..., Path], tmp_path: Path) -> None:
    folders = [write_student("one"), write_student("two")]
    assert run(*(word for folder in folders for word in ("--student", str(folder)))).exit_code == 0

    assert [model.name for model in report(tmp_path).models[1:]] == ["QAT W4A8 deploy", "QAT W4A8 deploy #2"]
    assert len(list((tmp_path / "out").glob("detections-*.json"))) == 3


def test_a_second_run_is_up_to_date_and_loads_nothing(
    run: Run, trained: Path, tmp_path: Path, loads: list[str]
) -> None:
    assert run("--student", str(trained)).exit_code == 0
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    written, loaded = {path: path.stat().st_mtime_ns for path in files}, len(loads)

    result = run("--student", str(trained), "--set", "batch=1")

    assert result.exit_code == 0
    assert "up to date" in result.output
    assert len(loads) == loaded
    assert {path: path.stat().st_mtime_ns for path in files} == written


def test_another_evaluation_in_the_folder_is_kept_unless_overwritten(run: Run, trained: Path, tmp_path: Path) -> None:
    assert run("--student", str(trained)).exit_code == 0

    refused = run()
    assert refused.exit_code == 2
    assert "student 1" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert len(report(tmp_path).models) == 3

    assert run("--overwrite").exit_code == 0
    assert len(report(tmp_path).models) == 1
    assert len(list((tmp_path / "out").glob("detections-*.json"))) == 1


def test_the_calibration_set_decides_the_image_size(
    run: Run, write_student: Callable[..., Path], tmp_path: Path
) -> None:
    small, large = write_student("small", image_size=96), write_student("large", image_size=128)
    assert run("--student", str(small)).exit_code == 0
    assert report(tmp_path).data.image_size == ImageSize.square(96)

    result = run("--student", str(small), "--student", str(large))
    assert result.exit_code == 2
    assert "96, 128" in result.stderr


def test_configuration_comes_from_a_file_by_option_or_environment(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "eval.yaml"
    path.write_text(yaml.safe_dump({"confidence": 0.5, "image_size": 96}))
    assert run("--config", str(path)).exit_code == 0
    assert (report(tmp_path).eval.confidence, report(tmp_path).data.image_size) == (0.5, ImageSize.square(96))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZSQ_CONFIG", str(path))
        assert "up to date" in run().output


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("confidense=0.5", "did you mean 'confidence'"),
        ("confidence=1.5", "confidence: got 1.5"),
        ("image_size=65", "image_size: got 65, the teacher takes multiples of 32; set 64 or 96"),
        ("device=tpu", "device: got 'tpu'"),
        ("data=nowhere", "nowhere: no such file or folder"),
        ("teacher.path=/nowhere/teacher.pt", "/nowhere/teacher.pt: no such file"),
        ("data=embedded", "classes that the teacher does not know"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(run: Run, tmp_path: Path, assignment: str, message: str) -> None:
    result = run("--set", assignment)

    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out" / "report.json").exists()


def test_a_page_a_curve_and_an_interval_come_with_the_report(run: Run, tmp_path: Path, loads: list[str]) -> None:
    assert run().exit_code == 0

    (model,) = report(tmp_path).models
    assert model.precision_recall is not None and model.precision_recall.iou50 == pytest.approx([1.0] * 101)
    assert model.uncertainty is not None and model.uncertainty.map50_95.high == pytest.approx(1)
    assert "mAP50-95 1.000" in (tmp_path / "out" / "report.html").read_text()


def test_samples_show_labels_and_what_each_model_found(run: Run, tmp_path: Path) -> None:
    assert run("--set", "samples=1").exit_code == 0

    (sample,) = report(tmp_path).samples
    assert [box.class_name for box in sample.labels] == ["green"]  # the later of the two labelled images
    assert [box.class_name for box in sample.detections["full precision"]] == ["green"]
    assert (tmp_path / "out" / "samples" / sample.file).exists()


def test_private_images_stay_where_they_are(run: Run, tmp_path: Path) -> None:
    assert run().exit_code == 0
    assert run("--overwrite", "--set", "samples=0").exit_code == 0

    assert not (tmp_path / "out" / "samples").exists()
    assert report(tmp_path).samples == ()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "switched off" in page and "data:image" not in page


def test_a_lost_page_is_written_again_without_evaluating(run: Run, tmp_path: Path, loads: list[str]) -> None:
    assert run().exit_code == 0
    page, loaded = (tmp_path / "out" / "report.html"), len(loads)
    written = page.read_bytes()
    page.unlink()

    result = run()

    assert result.exit_code == 0 and "up to date" in result.output
    assert page.read_bytes() == written
    assert len(loads) == loaded


def test_a_calibration_set_is_checked_before_anything_is_evaluated(
    run: Run, tmp_path: Path, trained: Path, loads: list[str], make_calibration_set: Callable[[Path], object]
) -> None:
    missing = run("--student", str(trained), "--calibration-set", str(tmp_path / "nowhere"))
    make_calibration_set(tmp_path / "foreign")
    foreign = run("--student", str(trained), "--calibration-set", str(tmp_path / "foreign"))

    assert (missing.exit_code, foreign.exit_code) == (2, 2)
    assert "no finished calibration set here" in missing.stderr
    assert "no student here was made with this calibration set" in foreign.stderr
    assert loads == []


def test_malformed_labels_are_bad_input(run: Run, coco_file: Path) -> None:
    coco_file.write_text("{")

    assert run().exit_code == 2


def test_a_student_that_is_not_there_is_bad_input(run: Run, tmp_path: Path) -> None:
    result = run("--student", str(tmp_path / "nowhere"))

    assert result.exit_code == 2
    assert "nowhere/student.json" in result.stderr


def test_a_student_of_another_teacher_is_bad_input(run: Run, write_student: Callable[..., Path]) -> None:
    result = run("--student", str(write_student("foreign", teacher_sha256="f" * 64)))

    assert result.exit_code == 2
    assert "made from another teacher" in result.stderr


def test_a_damaged_student_manifest_is_unverified(run: Run, trained: Path) -> None:
    (trained / "student.json").write_text("{}")

    assert run("--student", str(trained)).exit_code == 3


def test_an_evaluation_that_was_stopped_leaves_no_report(
    run: Run, tmp_path: Path, colour_teacher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = colour_teacher.predict

    def predict_and_stop(*arguments: Any, **settings: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return predict(*arguments, **settings)

    monkeypatch.setattr(colour_teacher, "predict", predict_and_stop)

    assert run("--set", "batch=1").exit_code == 143
    assert not (tmp_path / "out" / "report.json").exists()


def test_the_command_line_keeps_its_options() -> None:
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})

    for option in ("--config", "--set", "--student", "--calibration-set", "--output", "--overwrite", "ZSQ_CONFIG"):
        assert option in result.output


@pytest.mark.slow
def test_the_published_teacher_scores_what_it_should(real_teacher: Path, coco_val: Path, tmp_path: Path) -> None:
    arguments = ("--output", tmp_path / "out", "--set", f"teacher.path={real_teacher}", "--set", f"data={coco_val}",
                 "--set", "image_size=320")  # fmt: skip
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])

    assert result.exit_code == 0, result.output
    assert report(tmp_path).models[0].precision.map50_95 == pytest.approx(0.3435, abs=0.005)


def test_the_page_is_made_again_of_what_is_given(run: Run, trained: Path, tmp_path: Path) -> None:
    assert run("--student", str(trained)).exit_code == 0
    page = tmp_path / "out" / "report.html"
    page.write_text("of an earlier run")

    assert run("--student", str(trained)).exit_code == 0
    assert page.read_text() != "of an earlier run"


def test_an_exported_model_without_its_manifest_is_one_line(run: Run, trained: Path, tmp_path: Path) -> None:
    (trained / "model.openvino.onnx").write_bytes(b"a model")
    result = run("--student", str(trained))

    assert result.exit_code == 2
    assert "model.openvino.onnx.json: is missing beside model.openvino.onnx" in result.output


def test_a_missing_provider_leaves_the_earlier_evaluation(run: Run, tmp_path: Path) -> None:
    assert run().exit_code == 0
    result = run("--overwrite", "--set", "onnx.providers=[NoExecutionProvider]")

    assert result.exit_code == 2
    assert "NoExecutionProvider not in this onnxruntime" in result.output
    assert (tmp_path / "out" / "report.json").exists()


def test_a_requirement_that_is_missed_is_exit_4_with_everything_written(
    run: Run, trained: Path, tmp_path: Path, loads: list[str]
) -> None:
    result = run("--student", str(trained), "--set", "require.share=0.999")

    assert result.exit_code == 4, result.output
    assert "QAT W4A8 deploy falls short: share of full precision" in result.output
    page, summary = (tmp_path / "out" / name for name in ("report.html", "summary.md"))
    assert "<b>Fail</b>" in page.read_text() and ":x: **Fail**" in summary.read_text()

    loads.clear()
    met = run("--student", str(trained), "--set", "require.share=0.1")
    assert met.exit_code == 0, met.output
    assert loads == []  # judged anew, not measured anew
    verdict = report(tmp_path).verdict
    assert verdict is not None and verdict.met and report(tmp_path).eval.require is not None
    assert "<b>Pass</b>" in page.read_text() and "**Pass**" in summary.read_text()

    assert run("--student", str(trained)).exit_code == 0
    assert report(tmp_path).verdict is None and "<b>Pass</b>" not in page.read_text()
