"""The family of docs/add-a-family.md, added to a copy of the project as the page says, goes through the pipeline."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.little_work import LITTLE_WORK

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "add-a-family.md"
PACKAGES = (
    "detectors",
    "eval_job",
    "label_formats",
    "pipeline",
    "qat_job",
    "quantization",
    "schemas",
    "stages",
    "synth_job",
)
SETTINGS = LITTLE_WORK | {"teacher.family": "grid", "synth.held_back": 2}


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


def run(folder: Path, *arguments: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(folder)}  # stages are processes that do not look where they start
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_family_of_the_page_goes_through_the_pipeline(tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    family, checkpoint = blocks("python")
    (tmp_path / "detectors" / "families" / "grid.py").write_text(family)
    (change,) = blocks("diff")
    before, after = (line[1:] for line in change.splitlines())
    schema = tmp_path / "schemas" / "teacher.py"
    assert before in schema.read_text()
    schema.write_text(schema.read_text().replace(before, after))
    run(tmp_path, "-c", checkpoint)
    assignments = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    run(tmp_path, "-m", "pipeline.cli", "run", "grid.pt", "--bits", "w4a8", "--output", "run", *assignments)
    made = {path.name for path in (tmp_path / "run" / "student").iterdir()}
    assert {"model.onnxruntime.onnx", "model.openvino.onnx", "student.json"} <= made
    assert (tmp_path / "run" / "eval" / "report.html").exists()
