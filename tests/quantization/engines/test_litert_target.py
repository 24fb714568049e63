"""LiteRT as a target: what it asks for, and its interpreter in a process of its own, here with one that is made up."""

import gc
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantization.engines.litert.environment import ENVIRONMENT
from quantization.engines.litert.export import Scaled
from quantization.engines.litert.interpreter import LiteRtInterpreter
from quantization.engines.target import OwnFormat, engine_target
from quantization.onnx.engine import engine_title, installed_engines, open_engine, seconds_of
from quantization.onnx.export import check_expressible
from schemas.errors import ConfigError, VerificationError
from schemas.image_size import ImageSize
from schemas.student import QuantizerRecord
from schemas.target import Target, exported_path

INTERPRETER = """
import time
import numpy as np

class Interpreter:
    def __init__(self, path, num_threads):
        if b"damaged" in open(path, "rb").read():
            raise ValueError("not a model,\\nby far")
        print("a remark that is no array")
        self.threads = num_threads
    def allocate_tensors(self): pass
    def get_input_details(self): return [{"index": 0, "shape": np.array([1, 3, 64, 64], np.int32)}]
    def get_output_details(self): return [{"index": 1}]
    def set_tensor(self, index, values): self.values = values
    def invoke(self):
        time.sleep(0.05)
        if self.values.max() > 1:
            raise ValueError("out of range")
    def get_tensor(self, index):
        return np.full((1, 6, 5), self.values.mean(), np.float32)
"""


def record(name: str, bits: int = 8) -> QuantizerRecord:
    return QuantizerRecord(name=name, bits=bits, granularity="per_tensor", scheme="affine", signed=False)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python that has an `ai_edge_litert` of 20 lines."""
    package, about = tmp_path / "made_up" / "ai_edge_litert", tmp_path / "made_up" / "ai_edge_litert-9.9.dist-info"
    package.mkdir(parents=True)
    about.mkdir()
    (package / "__init__.py").write_text("")
    (package / "interpreter.py").write_text(INTERPRETER)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ai-edge-litert\nVersion: 9.9\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{package.parent}:$PYTHONPATH" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv(ENVIRONMENT, str(python))
    return python


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a file whose boxes are shares of the side, or pixels."""

    def run(boxes: str, content: str = "") -> Path:
        path = tmp_path / "model.litert.tflite"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", json.dumps({"zsq_boxes": boxes}))
            archive.writestr("content", content)
        return path

    return run


def images(count: int = 2) -> NDArray[np.float32]:
    """Images of one grey each: 0, 1/8, 2/8, ..."""
    greys = np.arange(count, dtype=np.float32) / 8
    return np.broadcast_to(greys[:, None, None, None], (count, 3, 64, 64)).copy()


@pytest.mark.parametrize(
    ("quantizers", "said"),
    [
        ([record("a.input"), record("b.input", 6)], "activations of 8 bits, not 6; set bits.activation_bits to 8"),
        ([record("a.input"), record("blocks.0.qk.left")], "blocks.0.qk is one; take litert out of qat.targets"),
        ([record("a.input"), record("roi_heads.a.input")], "between two stages; take litert out of qat.targets"),
        ([record("a.input"), record("a.weight", 4)], r"set ZSQ_LITERT_PYTHON to the Python of .*requirements\.txt"),
    ],
)
def test_what_it_cannot_do_is_one_line_with_the_setting_to_change(
    quantizers: list[QuantizerRecord], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with pytest.raises(ConfigError, match=f"^target litert: .*{said}") as error:
        check_expressible(quantizers, Target.LITERT)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/false", "/bin/true"])
def test_an_environment_that_does_not_run_is_named(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, python)
    assert "litert" not in installed_engines()
    with pytest.raises(ConfigError, match=f"ZSQ_LITERT_PYTHON is {python}, which does not run LiteRT: set"):
        check_expressible([record("a.input")], Target.LITERT)


def test_its_files_have_an_ending_of_their_own_and_no_other_target_has_a_format(environment: Path) -> None:
    assert exported_path(Path("student"), Target.LITERT) == Path("student/model.litert.tflite")
    assert [target for target in Target if isinstance(engine_target(target), OwnFormat)] == [Target.LITERT]
    check_expressible([record("a.input"), record("a.weight", 4)], Target.LITERT)


@pytest.mark.parametrize(("boxes", "factor"), [("shares of the side", 64), ("pixels", 1)])
def test_images_are_run_one_by_one_and_boxes_come_out_in_pixels(
    boxes: str, factor: int, environment: Path, write: Callable[..., Path]
) -> None:
    assert "litert" in installed_engines()
    assert engine_title("litert") == "litert 9.9 CPU"
    engine = open_engine(write(boxes), "litert", threads=1)
    for _ in range(2):
        outputs = engine(images())
        assert outputs.shape == (2, 6, 5)
        assert np.array_equal(outputs[1, 4:], np.full((2, 5), 1 / 8))
        assert np.array_equal(outputs[1, :4], np.full((4, 5), factor / 8))


def test_boxes_of_a_rectangle_are_shares_of_its_width_and_its_height(
    environment: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    package = tmp_path / "made_up" / "ai_edge_litert" / "interpreter.py"
    package.write_text(INTERPRETER.replace("[1, 3, 64, 64]", "[1, 3, 32, 64]"))
    outputs = open_engine(write("shares of the side"), "litert", threads=1)(images()[:, :, :32])
    assert outputs[1, :4, 0].tolist() == [64 / 8, 32 / 8, 64 / 8, 32 / 8], "x, y, w, h"

    class Pixels(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([[[64.0], [32.0], [16.0], [8.0], [0.5]]])

    shares = Scaled(Pixels(), ImageSize(32, 64))(torch.zeros(1, 3, 32, 64))
    assert shares.flatten().tolist() == [1.0, 1.0, 0.25, 0.25, 0.5]


def test_time_is_measured_around_the_interpreter_alone(environment: Path, write: Callable[..., Path]) -> None:
    engine = open_engine(write("pixels"), "litert", threads=1)
    assert isinstance(engine, LiteRtInterpreter)
    assert seconds_of(engine, images(1)) == engine.seconds >= 0.05


def test_the_process_ends_with_the_engine(environment: Path, write: Callable[..., Path]) -> None:
    engine = open_engine(write("pixels"), "litert")
    assert isinstance(engine, LiteRtInterpreter)
    process = engine._process
    assert process.poll() is None
    del engine
    gc.collect()
    assert process.returncode == 0


def test_what_goes_wrong_is_one_line(environment: Path, write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "other.tflite").write_bytes(b"no archive")
    with pytest.raises(VerificationError, match="is no LiteRT file of zsq"):
        open_engine(tmp_path / "other.tflite", "litert")
    with pytest.raises(VerificationError, match=r"litert cannot run it \(error: not a model, by far\)"):
        open_engine(write("pixels", "damaged"), "litert")
    engine = open_engine(write("pixels"), "litert")
    with pytest.raises(ConfigError, match="takes images of 3x64x64, not 3x32x64; export it with --image-size"):
        engine(images()[:, :, :32])
    with pytest.raises(VerificationError, match=r"litert cannot run it \(error: out of range\)"):
        engine(images() + 1)


def test_without_its_environment_it_is_not_opened(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with pytest.raises(ConfigError, match="litert is not installed; set ZSQ_LITERT_PYTHON to"):
        open_engine(write("pixels"), "litert")
