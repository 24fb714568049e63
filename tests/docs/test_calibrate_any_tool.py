"""The recipes of docs/calibrate-any-tool.md, run as they stand there, by the tools themselves."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.sets.conftest import zsq_set

PAGE = Path(__file__).resolve().parents[2] / "docs" / "calibrate-any-tool.md"
BLOCK = r"```{kind}\n(.*?)```"
SIZE = 640
"""What the recipes export for, since the checkpoint was trained at it."""
NEEDS = {
    "Ultralytics, ONNX": ("yolo", ["ultralytics", "onnxruntime"]),
    "Ultralytics, OpenVINO": ("yolo", ["ultralytics", "nncf"]),
    "ONNX Runtime": ("nchw", ["onnxruntime"]),
    "OpenVINO, NNCF": ("nchw", ["openvino", "nncf"]),
    "RKNN": ("list", ["rknn"]),
}
"""The export that a recipe starts from, and what has to be installed."""


def recipe(title: str) -> str:
    section = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    (chosen,) = [part for part in section if part.startswith(f"{title}\n")]
    (code,) = re.findall(BLOCK.format(kind="python"), chosen, flags=re.DOTALL)
    return str(code)


def test_every_tool_of_the_page_has_its_test() -> None:
    titles = [part.partition("\n")[0] for part in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]]
    assert titles == [*NEEDS, "Hailo", "Does it work as well as real images?"]


@pytest.fixture(scope="module")
def full_precision(real_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `best.pt` and `best.onnx`."""
    folder = tmp_path_factory.mktemp("full precision")
    shutil.copy(real_teacher, folder / "best.pt")
    code = "from ultralytics import YOLO; YOLO('best.pt').export(format='onnx', opset=17)"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def small_set(real_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images, hardly optimised: recipes are tried here, not judged."""
    folder = tmp_path_factory.mktemp("small") / "set"
    settings = {
        "teacher.path": real_teacher, "image_size": SIZE, "images": 4, "labels.size": 64, "labels.iterations": 2,
        "labels.warm_up": 0, "labels.interval": 1, "inversion.iterations": 2,
    }  # fmt: skip
    assignments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    subprocess.run([sys.executable, "-m", "synth_job", "--output", str(folder), *assignments], check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("title", NEEDS)
def test_a_recipe_runs_as_it_stands(title: str, full_precision: Path, small_set: Path, tmp_path: Path) -> None:
    layout, modules = NEEDS[title]
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} is not installed")
    for file in full_precision.glob("best.*"):
        shutil.copy(file, tmp_path)
    exported = zsq_set("export", small_set, "--format", layout, "--output", tmp_path / "calibration")
    assert exported.exit_code == 0, exported.output
    before = set(tmp_path.iterdir())
    finished = subprocess.run(
        [sys.executable, "-c", recipe(title)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert set(tmp_path.iterdir()) - before, "it left no file"
