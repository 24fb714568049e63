"""TensorRT's rules: what we write keeps them all, and a graph that breaks one is found."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from detectors.protocol import Detector
from quantization.convert import make_student, quantizer_records
from quantization.engines import tensorrt_rules as rules
from quantization.engines.tensorrt import ENGINE
from quantization.onnx.export import TracedStudent
from schemas.errors import VerificationError
from schemas.qat_config import BitPolicy, Quantizer

SYMMETRIC = BitPolicy(quantizer=Quantizer.LSQ)


def ones(count: int) -> str:
    return ", ".join(["1"] * count)


CONSTANTS = f"""
  float s = {{0.1}}, float t = {{0.2}}, int8 z = {{0}}, int8 one = {{1}}, uint8 u = {{0}},
  float[16] per = {{{ones(16)}}},
  int8[16, 16, 1, 1] w = {{{ones(256)}}}, int8[8, 16, 1, 1] narrow = {{{ones(128)}}}, float[16] bias = {{{ones(16)}}},
  int32[16] integers = {{{ones(16)}}}, int32 z32 = {{0}}
"""
GOOD = """
  xq = QuantizeLinear(x, s, z)  xd = DequantizeLinear(xq, s, z)
  wd = DequantizeLinear <axis = 0> (w, per)
  y = Conv(xd, wd, bias)
"""
BROKEN = {
    rules.zero_points: "xq = QuantizeLinear(x, s, one)  xd = DequantizeLinear(xq, s, one)",
    rules.signed_activations: "xq = QuantizeLinear(x, s, u)  xd = DequantizeLinear(xq, s, u)",
    rules.weights_by_output_channel: GOOD.replace("axis = 0", "axis = 1"),
    rules.both_or_none: GOOD.replace("Conv(xd, wd, bias)", "Conv(x, wd, bias)"),
    rules.float_bias: GOOD.replace("bias)", "bd)").replace("y =", "bd = DequantizeLinear(integers, s, z32)  y ="),
    rules.only_where_it_helps: GOOD + "v = Sigmoid(xd)",
    rules.residuals: GOOD + "v = Add(x, y)",
    rules.concatenations: GOOD + "c = Concat <axis = 1> (x, y)  cq = QuantizeLinear(c, t, z)",
    rules.narrow_layers: GOOD + "nd = DequantizeLinear(narrow, s)  r = Relu(y)  rq = QuantizeLinear(r, s, z)  "
    "rd = DequantizeLinear(rq, s, z)  v = Conv(rd, nd)",
}


def graph(body: str) -> ir.Graph:
    lines = "\n".join(part.strip() for part in body.replace("  ", "\n").splitlines() if part.strip())
    head = '<ir_version: 10, opset_import: ["" : 21]>\nnetwork (float[1, 16, 4, 4] x) => (float[n] out)\n'
    model = onnx.parser.parse_model(f"{head}<{CONSTANTS}>\n{{\n{lines}\nout = Identity(x)\n}}")
    return ir.from_proto(model).graph


def test_a_graph_that_keeps_all_rules_is_accepted() -> None:
    assert rules.broken_rules(graph(GOOD)) == []


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_a_graph_that_breaks_a_rule_is_found(rule: Callable[[ir.Graph], object]) -> None:
    found = list(rule(graph(BROKEN[rule])))  # type: ignore[call-overload, index]
    assert len(found) == 1 if rule is not rules.zero_points else len(found) == 2
    assert ": " in found[0]


def test_a_symmetric_student_keeps_every_rule(
    traced: Callable[[BitPolicy], TracedStudent], pixels: NDArray[np.float32], tmp_path: Path
) -> None:
    placed = ENGINE.place(traced(SYMMETRIC).model, None)
    assert rules.broken_rules(ir.from_proto(placed).graph) == []
    path = tmp_path / "model.onnx"
    onnx.save(placed, path)
    census = ENGINE.census(path)
    assert census.integer["Conv"] > 30
    assert all("not quantized" in layer.reason for layer in census.float_layers)


def test_as_it_was_traced_it_breaks_some(traced: Callable[[BitPolicy], TracedStudent], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(traced(SYMMETRIC).model, path)
    with pytest.raises(VerificationError, match=r"TensorRT would refuse it or be slow: .* \(and \d+ more\)"):
        ENGINE.census(path)


@pytest.mark.parametrize(
    ("bits", "reason"),
    [
        (BitPolicy(), "set bits.quantizer to lsq"),
        (BitPolicy(activation_bits=6, quantizer=Quantizer.LSQ), "set bits.activation_bits to 8"),
        (BitPolicy(weight_bits=4, quantizer=Quantizer.LSQ), None),
    ],
)
def test_what_it_cannot_express_is_named_with_the_setting(
    bits: BitPolicy, reason: str | None, teacher: Detector
) -> None:
    student = make_student(teacher, bits)
    obstacle = ENGINE.obstacle(quantizer_records(student.network))
    assert obstacle is None if reason is None else obstacle is not None and reason in obstacle
