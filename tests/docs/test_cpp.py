"""The C++ program of docs/engines.md, compiled against the OpenVINO that is installed, and run."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch

from detectors.embedded.scenes import VALIDATION_SEED, render_scene
from detectors.registry import load_teacher
from quantization.onnx.export import export_full_precision
from schemas.image_size import ImageSize
from schemas.teacher import TeacherSource
from tests.docs.test_commands import blocks

SIDE = 160
CONFIDENCE = 0.25


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_the_program_prints_what_the_engine_finds_in_python(tmp_path: Path) -> None:
    teacher = load_teacher(TeacherSource(), torch.device("cpu"))
    model = tmp_path / "model.onnx"
    export_full_precision(teacher, ImageSize.square(SIDE), model, tmp_path / "half.onnx")
    image = render_scene(VALIDATION_SEED, 0).image.transpose(2, 0, 1)[None].astype(np.float32) / 255
    image.tofile(tmp_path / "image.rgb")
    (program,) = blocks("docs/engines.md", "cpp")
    (tmp_path / "detect.cpp").write_text(program)
    home = Path(openvino.__file__).parent
    (library,) = (home / "libs").glob("libopenvino.so.*")
    subprocess.run(
        [
            *("g++", "-std=c++17", "detect.cpp", "-I", str(home / "include"), str(library)),
            f"-Wl,-rpath,{home / 'libs'}",
        ],
        cwd=tmp_path,
        check=True,
    )
    command = ["./a.out", str(model), "image.rgb", str(SIDE), str(SIDE)]
    printed = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.splitlines()

    (rows,) = openvino.Core().compile_model(str(model), "CPU")(image)[0]
    expected = [
        f"class {number}, score {rows[4 + number, anchor]:.3f}, "
        for anchor in range(rows.shape[1])
        for number in range(rows.shape[0] - 4)
        if rows[4 + number, anchor] > CONFIDENCE
    ]
    assert len(printed) == len(expected) > 0
    assert all(line.startswith(start) for line, start in zip(printed, expected, strict=True))
