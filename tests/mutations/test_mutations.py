"""Mutated checkpoints, students, documents and configurations: loaded and harmless, or refused in one line.

A few of every kind and family in each run. `ZSQ_FUZZ_CASES=1000 pytest -s tests/mutations` tries so many of each, and
prints the table of docs/reliability.md; ZSQ_FUZZ_SEED takes others.
"""

import json
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import RTDetrImageProcessor

from detectors.registry import load_teacher
from eval_job.report.page import rebuild_page
from pipeline.plan import describe_plan, plan_stages
from pipeline.settings import check_inputs, read_run_config
from schemas.base import Contract
from schemas.eval_config import EvalConfig
from schemas.qat_config import QatConfig
from schemas.run_config import RunConfig
from schemas.search import SearchReport, Tried
from schemas.student import StudentManifest
from schemas.synth_config import SynthConfig
from schemas.teacher import TeacherSource
from stages.options import read_stage_config
from stages.shards import open_calibration_set
from tests.conformance.cases import saved_network
from tests.detectors.test_odd_checkpoints import (
    CPU,
    rtdetr_content,
    torchvision_content,
    ultralytics_content,
    yolov5_content,
)
from tests.detectors.yolov5.pickled import repository
from tests.mutations.measured import HEAD, Outcomes, measure
from tests.mutations.subjects import Subject, checkpoint, configuration, document, saved_model, student

CASES = int(os.environ.get("ZSQ_FUZZ_CASES", "8"))
SEED = int(os.environ.get("ZSQ_FUZZ_SEED", "0"))
FAMILIES = ("ultralytics", "rtdetr", "yolov5", "torchvision")

pytestmark = [pytest.mark.timeout(0 if CASES > 100 else 300), pytest.mark.usefixtures("no_network")]


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[list[Outcomes]]:
    """What became of all cases; printed at the end."""
    rows: list[Outcomes] = []
    yield rows
    print("\n".join(["", HEAD, *(row.row() for row in rows)]))


@pytest.fixture
def content(torchvision_detector: Callable[..., Any]) -> Callable[[str], Any]:
    """The content of a small checkpoint of a family; inside `repository`."""
    makers: dict[str, Callable[[], Any]] = {
        "ultralytics": ultralytics_content,
        "rtdetr": rtdetr_content,
        "yolov5": yolov5_content,
        "torchvision": lambda: torchvision_content(torchvision_detector),
    }
    return lambda family: makers[family]()


def try_all(subject: Subject, kind: str, family: str, tmp_path: Path, table: list[Outcomes]) -> None:
    """So many mutations of one subject; none may end otherwise than harmless or refused."""
    outcomes = Outcomes(kind, family)
    table.append(outcomes)
    warnings.simplefilter("ignore")  # PyTorch warns of what the cases are about
    for case in range(CASES):
        folder = tmp_path / f"case-{case}"
        folder.mkdir()
        said = subject.spoil(folder, random.Random(f"{SEED}/{kind}/{family}/{case}"))
        failed = len(outcomes.failures)
        measure(outcomes, case, said, lambda folder=folder: subject.read(folder))  # type: ignore[misc]
        for failure in outcomes.failures[failed:]:
            print(failure, flush=True)
        shutil.rmtree(folder)
    print(f"\n{outcomes.row()}", flush=True)
    assert outcomes.failures == [], "\n".join([f"{len(outcomes.failures)} of {CASES}:", *outcomes.failures])


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpoints(family: str, content: Callable[[str], Any], tmp_path: Path, table: list[Outcomes]) -> None:
    try_all(checkpoint(lambda: content(family), family), "checkpoint", family, tmp_path, table)


SAVED = ("DFine", "RTDetr")
"""Of the transformers package."""


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], Path]:
    """A small network, in the folder that the library writes."""

    def write(kind: str) -> Path:
        folder = tmp_path / kind
        saved_network(kind, folder)
        RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
        return folder

    return write


@pytest.mark.parametrize("kind", SAVED)
def test_saved_models(kind: str, saved: Callable[[str], Path], tmp_path: Path, table: list[Outcomes]) -> None:
    try_all(saved_model(saved(kind)), "saved model", kind, tmp_path, table)


@pytest.mark.parametrize("kind", SAVED)
def test_students_of_saved_models(
    kind: str, saved: Callable[[str], Path], tmp_path: Path, table: list[Outcomes]
) -> None:
    teacher = load_teacher(TeacherSource(path=str(saved(kind))), CPU)
    try_all(student(teacher, tmp_path / "whole"), "student", kind, tmp_path, table)


@pytest.mark.parametrize("family", FAMILIES)
def test_students(family: str, content: Callable[[str], Any], tmp_path: Path, table: list[Outcomes]) -> None:
    with repository():
        torch.save(content(family), tmp_path / "whole.pt")
    teacher = load_teacher(TeacherSource(path=str(tmp_path / "whole.pt"), family=family), CPU)  # type: ignore[arg-type]
    try_all(student(teacher, tmp_path / "whole"), "student", family, tmp_path, table)


def read_set(folder: Path) -> None:
    """A calibration set, with its images."""
    opened = open_calibration_set(folder / "calibration")
    for sample in opened.samples:
        image = sample.image()
        assert image.shape == (opened.manifest.image_size.height, opened.manifest.image_size.width, 3)
    opened.manifest.to_json()


def read_page(folder: Path) -> None:
    """The page of a whole run."""
    page = folder / "page.html"
    rebuild_page(folder / "eval", [folder / "student"], folder / "calibration", page)
    text = page.read_text()
    assert text.rstrip().endswith("</html>")
    for word in ("nan", "inf", "None"):
        assert f">{word}<" not in text, f"the page says {word}"


DOCUMENTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "manifest.json of a set": ("calibration/manifest.json", read_set),
    "manifest.json, on the page": ("calibration/manifest.json", read_page),
    "student.json, on the page": ("student/student.json", read_page),
    "student.json before training": ("student/ptq/student.json", read_page),
    "report.json": ("eval/report.json", read_page),
    "search.json": ("student/search.json", read_page),
    "sensitivity.json": ("student/sensitivity.json", read_page),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents(name: str, run: Any, exported: Any, sensitivity: Any, tmp_path: Path, table: list[Outcomes]) -> None:
    file, read = DOCUMENTS[name]
    whole = tmp_path / "whole"
    whole.mkdir()
    for folder in ("calibration", "student", "eval"):
        shutil.move(tmp_path / folder, whole / folder)
    (whole / "eval" / "report.json").write_text(exported.to_json())
    student_sha256 = StudentManifest.read(whole / "student" / "student.json").weights_sha256
    tried = Tried(mean_weight_bits=4.0, student_sha256=student_sha256, map50_95=0.4, drop=1.0, holds=True)
    search = SearchReport(
        measure=exported.measure, data_digest="d", max_drop=2.0, full_precision=0.5, tried=(tried,), kept=student_sha256
    )
    (whole / "student" / "search.json").write_text(search.to_json())
    read(whole)
    (whole / "page.html").unlink(missing_ok=True)
    try_all(document(whole, file, read), "document", name, tmp_path, table)


def read_run(path: Path) -> None:
    """A run's settings, as far as `zsq run` goes without PyTorch."""
    config = read_run_config(path)
    check_inputs(config)
    (again := path.with_suffix(".again.yaml")).write_text(describe_plan(config, plan_stages(config)))
    assert read_run_config(again) == config


def read_stage(stage: Any, model: type[Contract]) -> Callable[[Path], object]:
    def read(path: Path) -> None:
        config = read_stage_config(stage, model, path, None, None)
        config.to_json()
        assert json.loads(config.to_json())

    return read


def whole(config: Contract) -> dict[str, Any]:
    """Every setting of a configuration."""
    values: dict[str, Any] = config.model_dump(mode="json")
    return values


CONFIGURATIONS: dict[str, tuple[Contract, Callable[[Path], object]]] = {
    "run": (RunConfig(), read_run),
    "synth": (SynthConfig(), read_stage("synth", SynthConfig)),
    "qat": (QatConfig(), read_stage("qat", QatConfig)),
    "eval": (EvalConfig(), read_stage("eval", EvalConfig)),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configurations(name: str, tmp_path: Path, table: list[Outcomes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, read = CONFIGURATIONS[name]
    try_all(configuration(whole(config), read), "configuration", name, tmp_path, table)
