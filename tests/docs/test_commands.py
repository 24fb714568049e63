"""The commands of README and tutorial, run as they stand there, on a small detector and with little work for each."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from detectors.embedded import WEIGHTS
from detectors.embedded.scenes import CLASS_NAMES, VALIDATION_SEED, Scene, render_scene
from detectors.ultralytics.yolo import UltralyticsDetector
from tests.docs.little_work import LITTLE_WORK

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = LITTLE_WORK | {"image_size": 96, "synth.held_back": 2, "eval.samples": 2}
BLOCK = re.compile(r"^```(?P<kind>[a-z]+)(?P<tag> \w+)?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
LITERT = "ZSQ_LITERT_PYTHON"


def blocks(page: str, kind: str, tag: str | None = None) -> list[str]:
    """The code blocks of a page; a word behind the language sets those apart that need more than a checkout."""
    found = BLOCK.finditer((ROOT / page).read_text())
    return [each["code"] for each in found if (each["kind"], (each["tag"] or "").strip()) == (kind, tag or "")]


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """What the pages speak of: `best.pt`, labelled images in `val/`, photographs in `photos/`."""
    network = UltralyticsDetector.embedded(WEIGHTS).network
    network.names = dict(enumerate(CLASS_NAMES))
    torch.save({"model": network, "train_args": {"imgsz": 160}}, tmp_path / "best.pt")
    for folder in ("val/images", "val/labels", "photos"):
        (tmp_path / folder).mkdir(parents=True)
    for index in range(4):
        scene = render_scene(VALIDATION_SEED, index)
        Image.fromarray(scene.image).save(tmp_path / "val" / "images" / f"{index}.png")
        (tmp_path / "val" / "labels" / f"{index}.txt").write_text(yolo_rows(scene))
        Image.fromarray(render_scene(VALIDATION_SEED, 4 + index).image).save(tmp_path / "photos" / f"{index}.png")
    shim = tmp_path / "bin" / "uv"  # `uv run` looks for a project where it is started
    shim.parent.mkdir()
    shim.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    shim.chmod(0o755)
    return tmp_path


def yolo_rows(scene: Scene) -> str:
    height, width = scene.image.shape[:2]
    corners: NDArray[np.float64] = scene.boxes / np.array([width, height, width, height])
    boxes = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
    pairs = zip(scene.classes.tolist(), boxes.tolist(), strict=True)
    return "".join(f"{index} {' '.join(map(str, box))}\n" for index, box in pairs)


def run(folder: Path, *command: str) -> None:
    environment = os.environ | {
        "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ZSQ_SET": " ".join(f"{key}={value}" for key, value in SETTINGS.items()),
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    # So little work may lose more than `--max-drop` allows with 8 bits already, which is said in the end.
    ended = done.returncode == 0 or "; that student is kept." in done.stderr
    assert ended, f"{command[-1]}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_commands_of_the_readme_run_one_by_one(workplace: Path) -> None:
    (use,) = [code for code in blocks("README.md", "sh") if "zsq run best.pt" in code]
    lines = use.splitlines()
    assert len(lines) >= 5
    for number, line in enumerate(lines):
        command, _, _ = line.partition("  #")
        output = "" if "--output" in command else f" --output runs/{number}"  # each of them is one to choose
        run(workplace, "bash", "-ec", command + output)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_tutorial_runs_from_its_first_to_its_last_command(workplace: Path) -> None:
    for code in blocks("docs/tutorial.md", "sh"):
        run(workplace, "bash", "-ec", code)
    for code in blocks("docs/tutorial.md", "python"):
        run(workplace, sys.executable, "-c", code)
    assert (workplace / "fetched" / "manifest.json").exists()
    if LITERT in os.environ:
        _, export = blocks("docs/tutorial.md", "sh", "litert")
        run(workplace, "bash", "-ec", export.partition("\n")[2])
        assert (workplace / "runs" / "best" / "student" / "model.litert.tflite").exists()
