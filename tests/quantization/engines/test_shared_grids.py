"""Who reads a value shares a grid where the grids are nearly alike, and nothing changes anywhere else."""

import numpy as np
import onnx
import pytest

from quantization.engines.shared_grids import grids_shared
from tests.quantization.engines.test_onnxruntime import model, noise, outputs

READ_TWICE = """
network (float[1, 4, 8, 8] images) => (float[1, 4, 8, 8] output0, float[1, 4, 8, 8] output1)
<
  float scale = {0.004}, uint8 zero = {0}, float layer = {0.01}, float joint = {JOINT}, uint8 middle = {60},
  float w_scale = {0.01}
>
{
  images_q = QuantizeLinear(images, scale, zero)
  images_d = DequantizeLinear(images_q, scale, zero)
  w_d = DequantizeLinear(w, w_scale)
  conv = Conv(images_d, w_d)
  half, other = Split <axis = 1, num_outputs = 2> (conv)
  half_q = QuantizeLinear(half, layer, middle)
  half_d = DequantizeLinear(half_q, layer, middle)
  half_w = DequantizeLinear(w_half, w_scale)
  inner = Conv(half_d, half_w)
  joined = Concat <axis = 1> (half, other, inner)
  joined_q = QuantizeLinear(joined, joint, middle)
  joined_d = DequantizeLinear(joined_q, joint, middle)
  joined_w = DequantizeLinear(w_joined, w_scale)
  output0 = Conv(joined_d, joined_w)
  output1 = Identity(READ)
}
"""


def network(joint: float, read: str = "images") -> onnx.ModelProto:
    random = np.random.default_rng(1)
    made = model(READ_TWICE.replace("JOINT", str(joint)).replace("READ", read))
    for name, shape in (("w", (4, 4, 1, 1)), ("w_half", (2, 2, 1, 1)), ("w_joined", (4, 6, 1, 1))):
        weight = random.integers(-64, 64, shape).astype(np.int8)
        made.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    return made


def quantized(of: onnx.ModelProto) -> dict[str, list[float]]:
    """Step sizes of the activation quantizers on each value."""
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in of.graph.initializer}
    found: dict[str, list[float]] = {}
    for node in of.graph.node:
        if node.op_type == "QuantizeLinear":
            found.setdefault(node.input[0], []).append(round(constants[node.input[1]].item(), 6))
    return found


def test_alike_grids_become_the_coarsest_one_where_the_value_is_computed() -> None:
    before = network(0.015)
    found = quantized(grids_shared(before))
    assert found == {"images": [0.004], "conv": [0.015], "inner": [0.015]}
    assert quantized(before) == {"images": [0.004], "half": [0.01], "joined": [0.015]}, "the argument stays"


def test_equal_grids_give_the_same_outputs_bit_by_bit() -> None:
    before, images = network(0.01), noise(1, 4, 8, 8)
    after = grids_shared(before)
    assert quantized(after) == {"images": [0.004], "conv": [0.01], "inner": [0.01]}
    assert np.array_equal(outputs(after, images), outputs(before, images))


def test_a_grid_twice_too_coarse_is_not_shared() -> None:
    before, images = network(0.03), noise(1, 4, 8, 8)
    after = grids_shared(before)
    assert quantized(after)["half"] == [0.01]
    assert np.array_equal(outputs(after, images), outputs(before, images))


def test_what_is_read_in_float_stays_in_float() -> None:
    after = grids_shared(network(0.015, read="conv"))
    assert "conv" not in quantized(after)
    decoded = next(node for node in after.graph.node if node.op_type == "Identity")
    assert decoded.input[0] == "conv"


def test_what_a_concatenation_gives_in_float_is_not_rounded_before_it() -> None:
    before, images = network(0.015, read="joined"), noise(1, 4, 8, 8)
    after = grids_shared(before)
    assert quantized(after) == quantized(before)
    assert np.array_equal(outputs(after, images), outputs(before, images))


@pytest.mark.parametrize("value", ["half", "joined"])
def test_activations_of_fewer_bits_stay_as_they_are(value: str) -> None:
    made = network(0.015)
    ends = [onnx.numpy_helper.from_array(np.array(end, np.float32), name) for name, end in (("low", 0), ("high", 0.3))]
    made.graph.initializer.extend(ends)
    clip = onnx.helper.make_node("Clip", [value, "low", "high"], ["held"])
    at = next(
        n for n, node in enumerate(made.graph.node) if node.op_type == "QuantizeLinear" and node.input[0] == value
    )
    made.graph.node[at].input[0] = "held"
    made.graph.node.insert(at, clip)
    assert grids_shared(made) == made
