"""Sums of 8-bit products are exact in engines on every processor, and where they are not it is said."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from quantization.engines.sums import overflow_remark, sums_overflow_here
from quantization.engines.target import engine_target
from quantization.plan import QuantizerSpec
from schemas.qat_config import WIDE_SUMS, BitPolicy
from schemas.student import OnnxManifest
from schemas.target import Target

REDUCED = QuantizerSpec(8, "per_channel", "symmetric", reduced_range=True).range
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


@pytest.mark.parametrize("largest", [REDUCED[1], REDUCED[0] + 3])
def test_sums_of_a_reduced_range_do_not_overflow(largest: int) -> None:
    model = layer(largest)
    images = np.full((1, 16, 8, 8), 255, np.float32)
    exact = onnxruntime.SessionOptions()
    exact.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # computes in float
    wanted = onnxruntime.InferenceSession(model.SerializeToString(), exact).run(None, {"x": images})[0]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
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
    ("target", "tensors", "reduced", "vnni", "told"),
    [
        ("onnxruntime", {"4": 80, "8": 7}, False, False, True),
        ("generic", {"8": 87}, False, False, True),
        ("openvino", {"8": 87}, True, False, False),
        ("openvino", {"7": 87}, False, False, False),
        ("openvino", {"8": 87}, False, True, False),
        ("tensorrt", {"8": 87}, False, False, False),
    ],
)
def test_a_file_whose_sums_overflow_here_comes_with_a_remark(
    monkeypatch: pytest.MonkeyPatch, target: str, tensors: dict[str, int], reduced: bool, vnni: bool, told: bool
) -> None:
    monkeypatch.setattr("quantization.engines.sums.sums_overflow_here", lambda: not vnni)
    described = OnnxManifest.model_construct(
        target=Target(target), weight_tensors=tensors, bits=BitPolicy(reduce_range=reduced)
    )
    remark = overflow_remark(described)
    assert ("bits.reduce_range" in remark) if told and remark else remark is None and not told


def test_settings_and_engines_agree_on_which_sums_are_wide() -> None:
    assert {target for target in Target if not engine_target(target).overflows_without_vnni} == set(WIDE_SUMS)
