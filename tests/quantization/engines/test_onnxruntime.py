"""ONNX Runtime runs the whole network in integers, and moving quantizers changes no value."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from detectors.protocol import Detector
from quantization.engines.census import OUTPUT_IN_FLOAT
from quantization.engines.first_layer import first_layer_over_blocks
from quantization.engines.linear_layers import weights_with_zero_points
from quantization.engines.narrow_layers import narrow_layers_filled_up
from quantization.engines.onnxruntime import ENGINE, optimised
from quantization.engines.softmax import spell_out_softmax
from quantization.engines.upsampling import upsampling_by_copies
from quantization.engines.whole_graph import place_everywhere
from quantization.onnx.export import TracedStudent
from schemas.qat_config import BitPolicy, Quantizer

W8A8, W6A6 = BitPolicy(), BitPolicy(weight_bits=6, activation_bits=6)
SYMMETRIC = BitPolicy(quantizer=Quantizer.LSQ)
NETWORK = """
network (float[1, 2, 8, 8] images) => (float[1, 1, h, w] output0)
<
  float a_scale = {0.01}, uint8 a_zero = {3}, float b_scale = {0.02}, uint8 b_zero = {5},
  int8[2, 2, 1, 1] w1 = {20, -30, 40, 50}, float w1_scale = {0.05},
  int8[1, 4, 1, 1] w2 = {20, -30, 40, 50}, float w2_scale = {0.05}
>
{
  images_q = QuantizeLinear(images, a_scale, a_zero)
  images_d = DequantizeLinear(images_q, a_scale, a_zero)
  w1_d = DequantizeLinear(w1, w1_scale)
  conv1 = Conv(images_d, w1_d)
  relu = Relu(conv1)
  pooled = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (relu)
  pooled_again = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (pooled)
  joined = Concat <axis = 1> (pooled, pooled_again)
  joined_q = QuantizeLinear(joined, b_scale, b_zero)
  joined_d = DequantizeLinear(joined_q, b_scale, b_zero)
  w2_d = DequantizeLinear(w2, w2_scale)
  output0 = Conv(joined_d, w2_d)
}
"""

FIRST = """
network (float[1, 3, h, w] images) => (float[1, 4, i, j] output0) <float scale = {0.0625}, uint8 zero = {3}>
{
  images_q = QuantizeLinear(images, scale, zero)
  images_d = DequantizeLinear(images_q, scale, zero)
  w_d = DequantizeLinear(w, scale)
  output0 = Conv <strides = [2, 2], pads = [PAD, PAD, PAD, PAD], kernel_shape = [SIDE, SIDE]> (images_d, w_d)
}
"""


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]>\n' + text)


def outputs(of: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """With every operator as it stands, none fused."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(of.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {"images": images})[0]
    return found


def noise(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def test_moving_quantizers_through_pooling_and_concatenation_changes_no_value() -> None:
    network, images = model(NETWORK), noise(1, 2, 8, 8)
    placed = place_everywhere(network, images)
    assert np.array_equal(outputs(placed, images), outputs(network, images))
    scales = {node.input[1] for node in placed.graph.node if node.op_type == "QuantizeLinear"}
    assert len(scales) == 2  # of the image, and the student's own grid everywhere else
    quantized = {node.input[0] for node in placed.graph.node if node.op_type == "QuantizeLinear"}
    assert quantized == {"images", "relu", "pooled", "pooled_again", "joined"}


def test_the_model_that_is_placed_stays_as_it_is() -> None:
    network = model(NETWORK)
    before = network.SerializeToString()
    place_everywhere(network, noise(1, 2, 8, 8))
    assert network.SerializeToString() == before


@pytest.mark.parametrize("bits", [W8A8, W6A6, SYMMETRIC], ids=["W8A8", "W6A6", "symmetric"])
def test_every_convolution_but_the_output_ones_is_integer_in_the_optimised_graph(
    bits: BitPolicy,
    traced: Callable[[BitPolicy], TracedStudent],
    pixels: NDArray[np.float32],
    teacher: Detector,
    tmp_path: Path,
) -> None:
    student = traced(bits)
    path = tmp_path / "model.onnx"
    onnx.save(ENGINE.place(student.model, pixels), path)
    found = Counter(node.op_type for node in optimised(path).graph.node)
    outputs_of_head = len(teacher.output_layers())
    assert found["QLinearConv"] == len(student.weight_bits) - outputs_of_head

    census = ENGINE.census(path)
    assert census.integer["QLinearConv"] == found["QLinearConv"]
    assert census.integer["QLinearSigmoid"] == census.integer["QLinearMul"] > 25
    decoded = [layer for layer in census.float_layers if layer.reason == OUTPUT_IN_FLOAT]
    assert len(decoded) == outputs_of_head


def test_activations_of_fewer_bits_are_held_by_a_clip_on_the_integers(
    traced: Callable[[BitPolicy], TracedStudent], pixels: NDArray[np.float32]
) -> None:
    placed = ENGINE.place(traced(W6A6).model, pixels)
    constants = {tensor.name: tensor for tensor in placed.graph.initializer}
    clips = [node for node in placed.graph.node if node.op_type == "Clip"]
    assert clips
    for clip in clips:
        low, high = (onnx.numpy_helper.to_array(constants[name]).item() for name in clip.input[1:])
        assert constants[clip.input[1]].data_type == TensorProto.UINT8
        assert (low, high) == (0, 63)


def test_where_an_activation_function_bounds_a_value_saturation_does_what_a_clip_would() -> None:
    narrow = NETWORK.replace("joined_q =", "held = Clip (joined, low, high)\n  joined_q =").replace(
        "QuantizeLinear(joined,", "QuantizeLinear(held,"
    ).replace("float a_scale", "float low = {0.0}, float high = {1.26}, float a_scale").replace(
        "b_zero = {5}", "b_zero = {0}"
    )  # fmt: skip
    network, images = model(narrow), noise(1, 2, 8, 8)
    placed = place_everywhere(network, images)
    assert np.array_equal(outputs(placed, images), outputs(network, images))
    assert "Clip" not in {node.op_type for node in placed.graph.node}
    zeros = {onnx.numpy_helper.to_array(tensor).item() for tensor in placed.graph.initializer if "uint8" in tensor.name}
    assert zeros == {3, 192}  # 64 integers, the largest of which is 255


def test_outputs_stay_close_to_the_traced_student(
    traced: Callable[[BitPolicy], TracedStudent], pixels: NDArray[np.float32]
) -> None:
    for bits in (W8A8, W6A6):
        student = traced(bits).model
        theirs = outputs(student, pixels)
        errors = np.abs(outputs(ENGINE.place(student, pixels), pixels) - theirs)
        assert errors[:, 4:].mean() < 2e-3 < theirs[:, 4:].max() / 100
        seen = theirs[:, 4:].max(axis=1) > 0.05
        assert errors[:, :4].transpose(0, 2, 1)[seen].mean() < 1.0


def test_opencv_runs_the_file_too(
    traced: Callable[[BitPolicy], TracedStudent], pixels: NDArray[np.float32], tmp_path: Path
) -> None:
    opencv = pytest.importorskip("cv2")
    placed, path = ENGINE.place(traced(W8A8).model, pixels), tmp_path / "model.onnx"
    onnx.save(placed, path)
    network = opencv.dnn.readNetFromONNX(str(path))
    network.setInput(pixels[:1])
    errors = np.abs(network.forward() - outputs(placed, pixels[:1]))
    assert errors[:, 4:].max() < 0.1
    assert errors[:, :4].mean() < 3.0


@pytest.mark.parametrize(("side", "padding"), [(3, 1), (6, 2), (7, 3), (2, 0)])
def test_a_first_layer_over_blocks_gives_the_very_same_sums(side: int, padding: int) -> None:
    text = FIRST.replace("SIDE", str(side)).replace("PAD", str(padding))
    weight = np.random.default_rng(1).integers(-128, 128, (4, 3, side, side)).astype(np.int8)
    first, images = model(text), noise(1, 3, 16, 20)
    first.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    over_blocks = first_layer_over_blocks(first)
    assert "SpaceToDepth" in {node.op_type for node in over_blocks.graph.node}
    assert np.array_equal(outputs(over_blocks, images), outputs(first, images))


@pytest.mark.parametrize("other", ["strides = [1, 1]", "strides = [2, 2], dilations = [2, 2]"])
def test_other_first_layers_stay_as_they_are(other: str) -> None:
    text = FIRST.replace("SIDE", "3").replace("PAD", "1").replace("strides = [2, 2]", other)
    first = model(text)
    first.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.int8), "w"))
    assert "SpaceToDepth" not in {node.op_type for node in first_layer_over_blocks(first).graph.node}


def test_softmax_over_another_axis_is_written_out_and_over_the_last_one_is_not() -> None:
    text = "network (float[2, 16, 5] images) => (float[2, 16, 5] y) {{ y = Softmax <axis = {axis}> (images) }}"
    images = 40 * noise(2, 16, 5)
    middle, last = model(text.format(axis=1)), model(text.format(axis=2))
    written = spell_out_softmax(middle)
    assert "Softmax" not in {node.op_type for node in written.graph.node}
    assert np.allclose(outputs(written, images), outputs(middle, images), atol=1e-6)
    assert [node.op_type for node in spell_out_softmax(last).graph.node] == ["Softmax"]


LINEAR = """
network (float[n, 4] images) => (float[n, 3] output0)
<
  float a_scale = {0.01}, uint8 a_zero = {3}, float b_scale = {0.02}, uint8 b_zero = {0},
  int8[3, 4] w = {20, -30, 40, 50, 1, 2, 3, 4, -9, 8, -7, 6}, float[3] w_scale = {0.05, 0.02, 0.01},
  float[3] b = {0.5, -0.5, 0.1}
>
{
  images_q = QuantizeLinear(images, a_scale, a_zero)
  images_d = DequantizeLinear(images_q, a_scale, a_zero)
  w_d = DequantizeLinear <axis = 0> (w, w_scale)
  linear = Gemm <transB = 1, beta = 1.0> (images_d, w_d, b)
  relu = Relu(linear)
  relu_q = QuantizeLinear(relu, b_scale, b_zero)
  output0 = DequantizeLinear(relu_q, b_scale, b_zero)
}
"""


def test_a_linear_layer_is_an_integer_one_once_its_weight_has_a_zero_point(tmp_path: Path) -> None:
    before = model(LINEAR)
    after = weights_with_zero_points(before)
    path = tmp_path / "linear.onnx"
    onnx.save(after, path)
    assert "QGemm" in {node.op_type for node in optimised(path).graph.node}
    assert ENGINE.census(path).integer["QGemm"] == 1
    values = np.random.default_rng(0).random((5, 4), dtype=np.float32)
    assert np.array_equal(outputs(after, values), outputs(before, values))
    assert weights_with_zero_points(after) == after


NARROW = """
network (float[1, 2, 8, 8] images) => (float[1, 3, h, w] output0)
<
  float scale = {0.02}, uint8 zero = {100}, int8[4, 2, 3, 3] w1, float[4] w1_scale = {0.01, 0.02, 0.03, 0.04},
  float[4] bias = {0.5, -0.5, 0.1, 0.0}, int8[3, 4, 1, 1] w2, float w2_scale = {0.05}
>
{
  images_q = QuantizeLinear(images, scale, zero)
  images_d = DequantizeLinear(images_q, scale, zero)
  w1_d = DequantizeLinear <axis = 0> (w1, w1_scale)
  conv1 = Conv <pads = [1, 1, 1, 1]> (images_d, w1_d, bias)
  conv1_q = QuantizeLinear(conv1, scale, zero)
  conv1_d = DequantizeLinear(conv1_q, scale, zero)
  gate = Sigmoid(conv1_d)
  gate_q = QuantizeLinear(gate, scale, zero)
  gate_d = DequantizeLinear(gate_q, scale, zero)
  silu = Mul(conv1_d, gate_d)
  silu_q = QuantizeLinear(silu, scale, zero)
  silu_d = DequantizeLinear(silu_q, scale, zero)
  w2_d = DequantizeLinear(w2, w2_scale)
  output0 = Conv(silu_d, w2_d)
}
"""


def narrow(text: str = NARROW) -> onnx.ModelProto:
    random = np.random.default_rng(1)
    network = model(text.replace(", int8[4, 2, 3, 3] w1", "").replace(", int8[3, 4, 1, 1] w2", ""))
    for name, shape in (("w1", (4, 2, 3, 3)), ("w2", (3, 4, 1, 1))):
        values = random.integers(-128, 128, shape).astype(np.int8)
        network.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return network


def sizes_of_weights(of: onnx.ModelProto) -> set[tuple[int, ...]]:
    return {tuple(each.dims) for each in of.graph.initializer if each.data_type == TensorProto.INT8}


def test_a_narrow_layer_gets_outputs_of_zero_and_the_sums_stay() -> None:
    network, images = narrow(), noise(1, 2, 8, 8)
    filled = narrow_layers_filled_up(network)
    assert sizes_of_weights(filled) == {(16, 2, 3, 3), (3, 16, 1, 1)}
    assert np.array_equal(outputs(filled, images), outputs(network, images))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Conv(silu_d, w2_d)", "Conv <group = 1> (silu_d, w2_d)\n  seen = Identity(conv1_d)"),
        ("silu = Mul(conv1_d, gate_d)", "silu = Mul(conv1_d, images_s)\n  images_s = ReduceMax(images_d)"),
        ("silu_d = Deq", "silu_c = Concat <axis = 1> (silu_q, silu_q)\n  silu_d = Deq"),
    ],
    ids=["read by another operator", "multiplied by another value", "concatenated"],
)
def test_a_narrow_layer_that_others_read_stays_as_it_is(before: str, after: str) -> None:
    network = narrow(NARROW.replace(before, after))
    assert sizes_of_weights(narrow_layers_filled_up(network)) == {(4, 2, 3, 3), (3, 4, 1, 1)}


UPSAMPLED = """
network (float[n, 3, h, w] images) => (float[n, 3, i, j] output0)
<float scale = {0.01}, uint8 zero = {3}, float[4] twice = {1.0, 1.0, 2.0, 2.0}, float other = {0.02}>
{
  images_q = QuantizeLinear(images, scale, zero)
  images_d = DequantizeLinear(images_q, scale, zero)
  larger = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">
    (images_d, , twice)
  larger_q = QuantizeLinear(larger, scale, zero)
  output0 = DequantizeLinear(larger_q, scale, zero)
}
"""


def test_upsampling_copies_pixels_of_any_size() -> None:
    network, images = model(UPSAMPLED), noise(2, 3, 4, 5)
    copied = upsampling_by_copies(network)
    assert "Resize" not in {node.op_type for node in copied.graph.node}
    assert np.array_equal(outputs(copied, images), outputs(network, images))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"nearest"', '"linear"'),
        ('"floor"', '"ceil"'),
        ("2.0, 2.0}", "2.0, 3.0}"),
        ("(larger, scale", "(larger, other"),
    ],
)
def test_other_resizing_stays_as_it_is(before: str, after: str) -> None:
    copied = upsampling_by_copies(model(UPSAMPLED.replace(before, after)))
    assert "Resize" in {node.op_type for node in copied.graph.node}


TAKEN_TWICE = """
network (float[1, 2, 8, 8] images) => (float[1, 2, 8, 8] output0, float[1, 2, 8, 8] output1)
<float scale = {0.004}, uint8 zero = {0}, float coarse = {COARSE}, float w_scale = {0.01}>
{
  images_q = QuantizeLinear(images, scale, zero)
  images_d = DequantizeLinear(images_q, scale, zero)
  w_d = DequantizeLinear(w, w_scale)
  conv = Conv(images_d, w_d)
  relu = Relu(conv)
  relu_q = QuantizeLinear(relu, scale, zero)
  relu_d = DequantizeLinear(relu_q, scale, zero)
  output0 = Conv(relu_d, w_d)
  joined = Concat <axis = 1> (relu, relu)
  joined_q = QuantizeLinear(joined, coarse, zero)
  joined_d = DequantizeLinear(joined_q, coarse, zero)
  w2_d = DequantizeLinear(w2, w_scale)
  output1 = Conv(joined_d, w2_d)
}
"""


def scales_where_taken_twice(coarse: float) -> tuple[float, float]:
    """Step sizes of a value that a layer and a concatenation take, and of the concatenation's."""
    network = model(TAKEN_TWICE.replace("COARSE", str(coarse)))
    integers = np.random.default_rng(0).integers(-60, 60, (2, 2, 1, 1)).astype(np.int8)
    for name, values in (("w", integers), ("w2", np.concatenate([integers, integers], axis=1))):
        network.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    placed = place_everywhere(network, noise(4, 2, 8, 8))
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in placed.graph.initializer}
    quantizers = {node.input[0]: node.input[1] for node in placed.graph.node if node.op_type == "QuantizeLinear"}
    return constants[quantizers["relu"]].item(), constants[quantizers["joined"]].item()


def test_the_grid_of_a_concatenation_serves_all_where_it_is_nearly_as_fine_as_the_best() -> None:
    best, _ = scales_where_taken_twice(1.0)  # far too coarse to be shared
    for coarser, shared in ((1.1, True), (1.8, False)):
        assert scales_where_taken_twice(best * coarser) == pytest.approx(
            (best * (coarser if shared else 1), best * coarser)
        )
