import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from eval_job.report.artifacts import read_artifacts
from eval_job.report.page import rebuild_page, write_page
from schemas.calibration_set import ImageSource, LabelMode
from schemas.errors import InputError, VerificationError
from schemas.evaluation import EvalReport
from schemas.student import StudentManifest
from stages.storage import write_text

HOSTILE = '<script>alert("1")</script>'


@pytest.fixture
def page(run: Any, tmp_path: Path) -> Any:
    """Builds the page of the run, with some of its parts or with a changed evaluation; returns the HTML."""

    def build(report: EvalReport | None = None, student: bool = True, calibration_set: bool = True) -> str:
        write_page(
            report or run.report, run.evaluation, [run.student] if student else [],
            run.calibration_set if calibration_set else None, tmp_path / "page.html",
        )  # fmt: skip
        return (tmp_path / "page.html").read_text()

    return build


class Text(HTMLParser):
    """What a reader sees, white space collapsed."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def text_of(html: str) -> str:
    parser = Text()
    parser.feed(html[html.index("<body>") :])
    return " ".join(" ".join(parser.words).replace("\u202f", " ").split())


def test_the_page_opens_with_the_verdict_and_the_table_of_models(page: Any) -> None:
    text = text_of(page())

    assert "QAT W4A8 deploy keeps 90.0 % of full precision" in text
    assert "mAP50-95 0.450 against 0.500 of the full-precision detector" in text
    assert "Calibration alone (PTQ) keeps 20.0 %." in text
    for row in ("full precision 0.500", "PTQ W4A8 deploy 0.100", "QAT W4A8 deploy 0.450"):
        assert row in text
    assert "85.0–93.0 %" in text


def test_label_mode_image_source_and_digests_are_there(page: Any, run: Any) -> None:
    text = text_of(page())
    student = StudentManifest.read(run.student / "student.json")

    assert "sampled by the detector itself: nobody's labels were used" in text
    assert "no real image was used" in text
    for digest in (student.teacher.sha256, student.calibration_set.digest, student.weights_sha256, "d" * 64):
        assert digest in text


def test_given_labels_and_real_images_are_a_warning(page: Any, run: Any) -> None:
    changed = {"label_mode": LabelMode.GIVEN, "image_source": ImageSource.REAL}
    models = [each.model_copy(update=changed) if each.label_mode else each for each in run.report.models]
    html = page(run.report.model_copy(update={"models": tuple(models)}))

    assert html.count('class="warns"') == 2
    assert "somebody&#39;s labels were used" in html


def test_size_and_latency_are_shown_where_a_model_was_exported(page: Any, exported: EvalReport) -> None:
    assert "no model of this evaluation was exported" in text_of(page())
    text = text_of(page(exported))
    assert "2.90 MB" in text and "4.2 ms" in text and "those of exported models" in text
    assert "onnxruntime CPU 2 4.25 …–9.00 – 50" in text


def test_what_was_not_given_is_said_to_be_missing(page: Any) -> None:
    text = text_of(page(student=False, calibration_set=False))

    assert "No student folder was given" in text
    assert "No calibration set was given" in text
    assert "Give it with --calibration-set" in text


def test_an_evaluation_of_the_teacher_alone_has_a_page(page: Any, run: Any) -> None:
    report = run.report.model_copy(update={"models": run.report.models[:1], "samples": ()})
    text = text_of(page(report, student=False, calibration_set=False))

    assert "Full precision alone: mAP50-95 0.500" in text
    assert "No student was evaluated." in text
    assert "not given" not in text.replace("Not given, so", "")


def test_an_evaluation_of_an_older_version_has_a_page(page: Any, run: Any) -> None:
    models = [each.model_copy(update={"precision_recall": None, "uncertainty": None}) for each in run.report.models]
    old = run.report.model_copy(update={"models": tuple(models), "samples": (), "detection_statistics": None})

    text = text_of(page(old))
    assert "This evaluation holds no curves" in text
    assert "This evaluation holds no statistics of detections" in text
    assert "No sample images: they were switched off" in text


def test_layers_are_ranked_by_sensitivity_where_it_was_measured(page: Any, sensitivity: Any) -> None:
    ranking = text_of(page()).partition("Sensitivity to weight bits")[2]

    assert sensitivity.metric in ranking
    assert re.findall(r"model\.\d\S*", ranking)[:3] == ["model.1.conv", "model.0.conv", "model.2.cv1.conv"]
    assert "Ranked at 4 bits" in ranking


def test_a_sensitivity_of_another_set_is_not_shown(run: Any, sensitivity: Any) -> None:
    other = sensitivity.calibration_set.model_copy(update={"digest": "of another set"})
    path = run.student / "sensitivity.json"
    path.write_text(sensitivity.model_copy(update={"calibration_set": other}).to_json())

    (student,) = read_artifacts(run.report, run.evaluation, [run.student], None).students
    assert student.sensitivity is None


@pytest.mark.parametrize(
    ("source", "words"),
    [("synthesized", "images, no real one"), ("noise", "images of noise"), ("real", "images, which are real")],
)
def test_a_sensitivity_says_what_images_it_was_measured_on(run: Any, sensitivity: Any, source: str, words: str) -> None:
    reference = sensitivity.calibration_set.model_copy(update={"image_source": ImageSource(source)})
    path = run.student / "sensitivity.json"
    path.write_text(sensitivity.model_copy(update={"calibration_set": reference}).to_json())

    write_page(run.report, run.evaluation, [run.student], None, run.evaluation / "report.html")
    assert words in (run.evaluation / "report.html").read_text()


def test_without_students_the_set_must_be_of_the_teacher(run: Any) -> None:
    other = run.report.models[0].model_copy(update={"weights_sha256": "0" * 64})
    report = run.report.model_copy(update={"models": (other,)})

    with pytest.raises(InputError, match="made for another teacher"):
        read_artifacts(report, run.evaluation, [], run.calibration_set)


def test_without_sensitivity_the_page_says_so(page: Any) -> None:
    assert "Sensitivity of layers: not measured." in text_of(page())


def test_sample_pictures_that_were_taken_away_are_said_to_be(page: Any, run: Any) -> None:
    shutil.rmtree(run.evaluation / "samples")

    assert "sample pictures of this evaluation were taken away" in text_of(page())


def test_build_from_artifacts_cannot_become_markup(page: Any, run: Any) -> None:
    classes = {HOSTILE: 0.1, "'\"><img src=x onerror=alert(1)>": 0.2}
    statistics = run.report.detection_statistics.model_copy(update={"class_histogram": {HOSTILE: 4}})
    models = [each.model_copy(update={"name": each.name + HOSTILE, "per_class": classes}) for each in run.report.models]
    samples = [
        sample.model_copy(
            update={
                "labels": tuple(box.model_copy(update={"class_name": HOSTILE}) for box in sample.labels),
                "detections": {model.name: sample.labels for model in models},
            }
        )
        for sample in run.report.samples
    ]
    data = run.report.data.model_copy(update={"source": HOSTILE})
    html = page(
        run.report.model_copy(
            update={
                "models": tuple(models),
                "samples": tuple(samples),
                "detection_statistics": statistics,
                "data": data,
            }
        )
    )

    assert html.count("<script") == 1 and "<img" not in html  # our own
    assert "&lt;script&gt;" in html


def test_the_page_refers_to_nothing_outside_itself(page: Any) -> None:
    html = page()

    references = re.findall(r"(?:href|src|url)\s*[=(]\s*[\"']?([^\"')\s>]+)", html)
    assert references
    assert all(reference.startswith(("#", "data:")) for reference in references)
    assert "http:" not in html.replace("http-equiv", "") and "https:" not in html and "@import" not in html


def test_every_picture_and_chart_says_in_words_what_it_shows(page: Any) -> None:
    html = page()

    drawings = re.findall(r"<svg [^>]*>", html)
    assert all('aria-hidden="true"' in tag or 'role="img" aria-label="' in tag for tag in drawings)
    assert "Sample 1, QAT W4A8 deploy: 1 cat" in html
    assert "Calibration image 1: 1 " in html


def test_drawings_are_well_formed(page: Any) -> None:
    drawings = re.findall(r"<svg .*?</svg>", page(), flags=re.DOTALL)

    assert len(drawings) > 10
    for drawing in drawings:
        ET.fromstring(drawing)


def test_equal_artifacts_give_equal_bytes_wherever_they_lie(run: Any, tmp_path: Path) -> None:
    rebuild_page(run.evaluation, [run.student], run.calibration_set, tmp_path / "one.html")
    copies = [shutil.copytree(folder, tmp_path / "elsewhere" / folder.name) for folder in
              (run.evaluation, run.student, run.calibration_set)]  # fmt: skip
    rebuild_page(copies[0], [copies[1]], copies[2], tmp_path / "two.html")

    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_an_unfinished_evaluation_is_bad_input(run: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished evaluation here"):
        rebuild_page(tmp_path, [], None, tmp_path / "page.html")


def test_a_student_of_another_evaluation_is_bad_input(page: Any, run: Any) -> None:
    report = run.report.model_copy(update={"models": run.report.models[:2]})

    with pytest.raises(InputError, match="is not in this evaluation"):
        page(report)


def test_a_foreign_calibration_set_is_bad_input(page: Any, run: Any) -> None:
    path = run.student / "student.json"
    manifest = StudentManifest.read(path)
    reference = manifest.calibration_set.model_copy(update={"digest": "0" * 64})
    write_text(path, manifest.model_copy(update={"calibration_set": reference}).to_json())

    with pytest.raises(InputError, match="no student here was made with this calibration set"):
        page()


@pytest.mark.parametrize("damaged", ["eval/samples/0001.jpg", "student/model.safetensors"])
def test_an_artifact_that_was_changed_is_refused(page: Any, tmp_path: Path, damaged: str) -> None:
    path = tmp_path / damaged
    path.write_bytes(path.read_bytes()[:-1] + b"?")

    with pytest.raises(VerificationError, match="does not match its digest"):
        page()


def test_building_a_page_loads_no_torch() -> None:
    script = "import sys, eval_job.report.page; print([n for n in ('torch', 'ultralytics') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
