"""Sums of 8-bit products are exact in ONNX Runtime on every processor."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from quantization.engines.unsigned_weights import (
    SAFE,
    overflow_remark,
    sums_overflow_here,
    unsigned_where_sums_overflow,
)
from schemas.student import OnnxManifest
from schemas.target import Target

LAYER = """
<ir_version: 10, opset_import: ["" : 21]>
layer (float[1, 16, 8, 8] x) => (float[1, 16, 8, 8] y) <
  float x_scale = {1.0}, uint8 x_zero = {0}, float y_scale = {65536.0}, uint8 y_zero = {128}
> {
  x_integers = QuantizeLinear(x, x_scale, x_zero)
  seen = DequantizeLinear(x_integers, x_scale, x_zero)
  weight = DequantizeLinear <axis = 0> (w, w_scale)
  sums = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (seen, weight)
  y_integers = QuantizeLinear(sums, y_scale, y_zero)
  y = DequantizeLinear(y_integers, y_scale, y_zero)
}
"""


def layer(largest: int) -> onnx.ModelProto:
    model = onnx.parser.parse_model(LAYER)
    integers = np.random.default_rng(0).integers(largest - 3, largest + 1, (16, 16, 3, 3)).astype(np.int8)
    model.graph.initializer.append(numpy_helper.from_array(integers, "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(16, np.float32), "w_scale"))
    return model


def stored(model: onnx.ModelProto) -> dict[str, np.dtype]:
    kept = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    return {"weights": next(values.dtype for values in kept if values.ndim == 4)}


@pytest.mark.parametrize("largest", [127, SAFE[1], -120])
def test_sums_do_not_overflow(largest: int, tmp_path: Path) -> None:
    model = layer(largest)
    onnx.save(unsigned_where_sums_overflow(model), tmp_path / "layer.onnx")
    images = np.full((1, 16, 8, 8), 255, np.float32)
    exact = onnxruntime.SessionOptions()
    exact.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # computes in float
    wanted = onnxruntime.InferenceSession(model.SerializeToString(), exact).run(None, {"x": images})[0]
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": images})[0], wanted, atol=65536)  # a step of the output
    assert abs(wanted).max() > 30 * 65536


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"architecture": "x86_64", "avx_vnni": False, "avx512_vnni": False}, True),
        ({"architecture": "x86_64", "avx_vnni": True, "avx512_vnni": False}, False),
        ({"architecture": "x86_64", "avx_vnni": False, "avx512_vnni": True}, False),
        ({"architecture": "aarch64"}, False),
    ],
)
def test_processors_that_overflow_are_told_by_their_instructions(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, object], expected: bool
) -> None:
    assert isinstance(sums_overflow_here(), bool)  # PyTorch has these names
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert sums_overflow_here() is expected


@pytest.mark.parametrize(
    ("target", "bits", "vnni", "told"),
    [
        ("openvino", {"4": 80, "8": 7}, False, True),
        ("generic", {"8": 87}, False, True),
        ("openvino", {"7": 87}, False, False),
        ("openvino", {"8": 87}, True, False),
        ("onnxruntime", {"8": 87}, False, False),
    ],
)
def test_a_file_whose_sums_overflow_here_comes_with_a_remark(
    monkeypatch: pytest.MonkeyPatch, target: str, bits: dict[str, int], vnni: bool, told: bool
) -> None:
    monkeypatch.setattr("quantization.engines.unsigned_weights.sums_overflow_here", lambda: not vnni)
    remark = overflow_remark(OnnxManifest.model_construct(target=Target(target), weight_tensors=bits))
    assert ("--bits w7a8" in remark) if told and remark else remark is None and not told


def test_weights_of_seven_bits_stay_signed_and_larger_ones_do_not() -> None:
    assert stored(unsigned_where_sums_overflow(layer(SAFE[1]))) == {"weights": np.int8}
    assert stored(unsigned_where_sums_overflow(layer(SAFE[1] + 1))) == {"weights": np.uint8}
