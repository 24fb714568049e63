"""Without labels: agreement with full precision, on images that were held back and on photographs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from eval_job import job
from eval_job.__main__ import app
from schemas.calibration_set import MANIFEST, CalibrationSetManifest, LabelMode, LabelStatistics
from schemas.evaluation import EvalReport, Measure
from schemas.labels import BoxLabel, ImageLabels, LabelOrigin
from schemas.provenance import Provenance
from schemas.student import StudentManifest, TrainingMethod
from schemas.synth_config import SynthConfig
from stages.shards import write_shard

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, colour_teacher: Any, teacher_file: Path, tmp_path: Path) -> Run:
    """Run the command without labelled data; students are off by a pixel, before training by three."""

    def load_student(folder: Path, device: object) -> tuple[Any, StudentManifest]:
        manifest = StudentManifest.read(folder / "student.json")
        shift = 3.0 if manifest.method is TrainingMethod.PTQ else 1.0
        return type(colour_teacher)(manifest.teacher.sha256, shift=shift), manifest

    monkeypatch.setattr(job, "load_teacher", lambda source, device: colour_teacher)
    monkeypatch.setattr(job, "load_student", load_student)

    def invoke(*arguments: str | Path) -> Result:
        start = ["--output", tmp_path / "out", "--set", f"teacher.path={teacher_file}", "--set", "device=cpu"]
        return CliRunner().invoke(app, [str(part) for part in (*start, *arguments)])

    return invoke


@pytest.fixture
def held_back(tmp_path: Path, colour_teacher: Any) -> Path:
    """A set of two images with a red and a green rectangle each; its labels are wrong on purpose."""
    folder = tmp_path / "calibration" / "held-back"
    pixels = np.zeros((2, 64, 64, 3), dtype=np.uint8)
    pixels[:, 8:24, 4:24, 0] = 255
    pixels[:, 30:60, 30:50, 1] = 255
    wrong = BoxLabel(bbox=(0.0, 0.0, 5.0, 5.0), category_id=0, score=1.0, origin=LabelOrigin.SAMPLED)
    labels = [ImageLabels(width=64, height=64, boxes=(wrong,))] * 2
    config = SynthConfig(image_size=64, images=2)
    provenance = Provenance.of("synth", config.keyed(), {})
    shard = write_shard(folder, 0, zip(pixels, labels, strict=True), first_sample=0, seed=0, key=provenance.key)
    manifest = CalibrationSetManifest(
        teacher=colour_teacher.identity, label_mode=LabelMode.SAMPLED, synth=config, image_size=64, seed=0,
        shards=(shard,), statistics=LabelStatistics.of(labels, colour_teacher.identity.class_names),
        teacher_agreement=None, provenance=provenance,
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.to_json())
    return folder


def report(tmp_path: Path) -> EvalReport:
    return EvalReport.read(tmp_path / "out" / "report.json")


def visible(page: str) -> str:
    return page[page.index("<body>") :]


def test_full_precision_agrees_with_itself_and_a_student_as_far_as_it_finds_the_same(
    run: Run, held_back: Path, write_student: Callable[..., Path], tmp_path: Path
) -> None:
    student = write_student("student")
    write_student("student/ptq", TrainingMethod.PTQ)
    result = run("--student", student, "--held-back", held_back)

    assert result.exit_code == 0, result.output
    made = report(tmp_path)
    assert made.measure is Measure.AGREEMENT
    assert (made.data.format, made.data.images, made.data.boxes, made.data.label_confidence) == (
        "synthetic",
        2,
        4,
        0.25,
    )
    full, before, after = (model.precision.map50_95 for model in made.models)
    assert full == pytest.approx(1, abs=1e-6), "the set's own labels do not count"
    assert before < after < full


def test_it_is_called_agreement_on_the_terminal_and_on_the_page_which_says_what_would_make_it_accuracy(
    run: Run, held_back: Path, write_student: Callable[..., Path], tmp_path: Path
) -> None:
    result = run("--student", write_student("student"), "--held-back", held_back)

    events = [json.loads(line) for line in result.output.splitlines()]
    (table,) = [event for event in events if event["event"] == "table"]
    assert table["columns"] == ["model", "agreement, mAP50-95", "agreement, mAP50"]
    page = visible((tmp_path / "out" / "report.html").read_text())
    assert "agrees to" in page and 'href="#agreement"' in page
    assert "Labelled images of what the detector will meet would make it accuracy" in page
    said = [part for part in page.split("ccuracy")[:-1]]
    assert len(said) == 2, "once as what it is not, once as what it would take"
    assert ">labels</b>" not in page, "there are no labels to show beside detections"


def test_photographs_come_first_and_held_back_images_stand_beside_them(
    run: Run, held_back: Path, images: Path, tmp_path: Path
) -> None:
    result = run("--held-back", held_back, "--set", f"photos={images}")

    assert result.exit_code == 0, result.output
    made = report(tmp_path)
    assert (made.measure, made.data.format, made.data.images, made.data.boxes) == ("agreement", "photos", 3, 3)
    assert [each.format for each in made.agreement_data] == ["synthetic"]
    assert made.models[0].agreement[0].map50_95 == pytest.approx(1, abs=1e-6)
    assert "agreement on synthetic images" in (tmp_path / "out" / "report.html").read_text()


def test_photographs_beside_labelled_images_are_agreement_beside_accuracy(
    run: Run, yolo_folder: Path, images: Path, tmp_path: Path
) -> None:
    result = run("--set", f"data={yolo_folder}", "--set", f"photos={images}")

    assert result.exit_code == 0, result.output
    made = report(tmp_path)
    assert (made.measure, made.data.format) == ("accuracy", "yolo")
    assert [each.format for each in made.agreement_data] == ["photos"]


def test_what_synth_held_back_is_found_in_the_set(
    run: Run, held_back: Path, make_calibration_set: Callable[[Path], Any], tmp_path: Path
) -> None:
    make_calibration_set(tmp_path / "calibration")
    result = run("--calibration-set", held_back.parent)
    assert "was made for another teacher" in result.output, "the set is looked at after what it holds back was found"
    (held_back / MANIFEST).unlink()
    result = run("--calibration-set", held_back.parent)
    assert result.exit_code == 2
    assert "no finished set of held-back images here, and data names no labelled images" in result.output


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((), "data: not set, so there is nothing to measure on"),
        (("--set", "images=x"), "images: got 'x', but data is not set"),
        (("--set", "photos=none"), "photos none: no such folder"),
        (("--set", "photos=."), "no image in this folder"),
    ],
)
def test_nothing_to_measure_on_is_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*settings)
    assert result.exit_code == 2
    assert said in result.output


def test_images_that_a_student_was_made_with_are_not_held_back(
    run: Run, held_back: Path, write_student: Callable[..., Path]
) -> None:
    student = write_student("student")
    manifest = json.loads((student / "student.json").read_text())
    manifest["calibration_set"]["digest"] = CalibrationSetManifest.read(held_back / MANIFEST).digest
    (student / "student.json").write_text(json.dumps(manifest))
    result = run("--student", student, "--held-back", held_back)
    assert result.exit_code == 2
    assert "a student was made with these images" in result.output


def test_a_detector_that_finds_nothing_at_all_cannot_be_agreed_with(run: Run, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "dark").mkdir()
    Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(tmp_path / "dark" / "1.png")
    result = run("--set", f"photos={tmp_path / 'dark'}")
    assert result.exit_code == 2
    assert "finds nothing on these 1 images" in result.output
