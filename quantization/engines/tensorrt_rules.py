"""What TensorRT asks of a model with explicit quantization: each rule a function that lists where a graph breaks it.

TensorRT is not needed to check them. They follow its documentation of explicit quantization, what its parser refuses
(TensorRT issues 2774 and 4698: `shiftIsAllZeros`), and what NVIDIA's ModelOpt leaves out because it would be slower.
"""

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
TAKES_INTEGERS = WEIGHTED | {"Add", "Concat", "MaxPool", "Resize", "Reshape", "Transpose", "Slice", "AveragePool"}
"""Operators that gain by integers, or hand them on."""
PASSED = frozenset({"Mul", "Sigmoid", "Relu", "LeakyRelu", "Clip", "DequantizeLinear", "QuantizeLinear"})
"""Operators between a layer and what is made of it: its activation function and quantizers."""
FEWEST_CHANNELS = 16
"""Convolutions with fewer input or output channels are faster in FP16."""


def zero_points(graph: ir.Graph) -> Iterator[str]:
    """Every zero point is 0."""
    for node in _nodes(graph, "QuantizeLinear", "DequantizeLinear"):
        if len(node.inputs) > 2 and node.inputs[2] is not None and np.any(_constant(node.inputs[2])):
            yield f"{node.name}: its zero point is not 0"


def signed_activations(graph: ir.Graph) -> Iterator[str]:
    """Activations are INT8."""
    for node in _nodes(graph, "QuantizeLinear"):
        if len(node.inputs) < 3 or node.inputs[2] is None or _constant(node.inputs[2]).dtype != np.int8:
            yield f"{node.name}: quantizes to something else than INT8"


def weights_by_output_channel(graph: ir.Graph) -> Iterator[str]:
    """A convolution's weight has one scale, or one for each output channel (axis 0)."""
    for node in _nodes(graph, "Conv"):
        weight = node.inputs[1].producer() if node.inputs[1] is not None else None
        if weight is None or weight.op_type != "DequantizeLinear" or weight.inputs[1] is None:
            continue
        axis = weight.attributes.get_int("axis", 1)
        if _constant(weight.inputs[1]).size > 1 and axis != 0:
            yield f"{node.name}: its weight has scales along axis {axis}"


def both_or_none(graph: ir.Graph) -> Iterator[str]:
    """A layer's input and its weight are both quantized, or neither is."""
    for node in _nodes(graph, *WEIGHTED):
        quantized = [_dequantizer(value) is not None for value in node.inputs[:2]]
        if any(quantized) and not all(quantized):
            yield f"{node.name}: only its {'input' if quantized[0] else 'weight'} is quantized"


def float_bias(graph: ir.Graph) -> Iterator[str]:
    """Biases are float: the engine quantizes them itself."""
    for node in _nodes(graph, "Conv", "Gemm"):
        if len(node.inputs) > 2 and _dequantizer(node.inputs[2]) is not None:
            yield f"{node.name}: its bias is quantized"


def only_where_it_helps(graph: ir.Graph) -> Iterator[str]:
    """What is dequantized goes into a layer or is handed on: never into Sigmoid, Split, Softmax or a product."""
    for node in _nodes(graph, "DequantizeLinear"):
        for user in node.outputs[0].consumers():
            if user.op_type not in TAKES_INTEGERS:
                yield f"{node.name}: goes into {user.op_type}, which stays in float"


def residuals(graph: ir.Graph) -> Iterator[str]:
    """Of a residual sum the skip is quantized where it is for a layer, and the branch of the convolution is not."""
    for node in _nodes(graph, "Add"):
        for skip, branch in skips(node):
            if _dequantizer(branch) is not None:
                yield f"{node.name}: the branch that comes from a convolution is quantized, so that it cannot be fused"
            if _dequantizer(skip) is None and quantizers_of(skip):
                yield f"{node.name}: its skip is quantized for a layer, and not for the sum"


def concatenations(graph: ir.Graph) -> Iterator[str]:
    """A concatenation that quantized layers take has one scale: that of its output and of each input."""
    for node in _nodes(graph, "Concat"):
        scales = {scale_of(user) for user in quantizers_of(node.outputs[0])}
        if not scales:
            continue
        for value in node.inputs:
            dequantizer = _dequantizer(value)
            if len(scales) == 1 and (dequantizer is None or scale_of(dequantizer) not in scales):
                yield f"{node.name}: an input has another scale than the output"
                break


def narrow_layers(graph: ir.Graph) -> Iterator[str]:
    """Convolutions of few channels stay in float."""
    for node in _nodes(graph, "Conv"):
        if _dequantizer(node.inputs[1]) is not None and is_narrow(node):
            yield f"{node.name}: has fewer than {FEWEST_CHANNELS} input or output channels"


RULES: tuple[Callable[[ir.Graph], Iterator[str]], ...] = (
    zero_points,
    signed_activations,
    weights_by_output_channel,
    both_or_none,
    float_bias,
    only_where_it_helps,
    residuals,
    concatenations,
    narrow_layers,
)


def broken_rules(graph: ir.Graph) -> list[str]:
    """Where a graph breaks any rule, one line each; empty where it can be built and is fast."""
    return [line for rule in RULES for line in rule(graph)]


def is_narrow(node: ir.Node) -> bool:
    """Whether a convolution has so few channels that integers are slower; kernels exist for first layers."""
    shape = _weight_shape(node)
    groups = node.attributes.get_int("group", 1)
    inputs, outputs = shape[1] * groups, shape[0]
    if min(inputs, outputs) >= FEWEST_CHANNELS:
        return False
    source = _before_quantization(node.inputs[0])
    first = source is not None and source.is_graph_input()
    square = len(set(shape[2:])) == 1
    return not (groups == 1 and first and square and (inputs % 8 == 0 or outputs % 8 == 0))


def skips(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """The skip and the branch of a sum, where they can be told: the branch, of a convolution, goes nowhere else."""
    first, second = node.inputs
    if first is None or second is None:
        return
    for skip, branch in ((first, second), (second, first)):
        source = _before_quantization(skip)
        shared = source is not None and len(source.uses()) > 1
        if shared and _comes_from_layer(branch) and len(branch.uses()) == 1:
            yield skip, branch
            return


def quantizers_of(value: ir.Value) -> list[ir.Node]:
    """The QuantizeLinear nodes that take a value."""
    return [node for node in value.consumers() if node.op_type == "QuantizeLinear"]


def scale_of(node: ir.Node) -> float:
    """The step size of a QuantizeLinear or DequantizeLinear of an activation."""
    assert node.inputs[1] is not None
    return float(_constant(node.inputs[1]).reshape(-1)[0])


def _nodes(graph: ir.Graph, *kinds: str) -> list[ir.Node]:
    return [node for node in graph if node.op_type in kinds]


def _dequantizer(value: ir.Value | None) -> ir.Node | None:
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def _before_quantization(value: ir.Value | None) -> ir.Value | None:
    """The float value that a dequantized one was; itself where it is not dequantized."""
    while (dequantizer := _dequantizer(value)) is not None:
        quantizer = dequantizer.inputs[0].producer() if dequantizer.inputs[0] is not None else None
        if quantizer is None or quantizer.op_type != "QuantizeLinear":
            return None
        value = quantizer.inputs[0]
    return value


def _comes_from_layer(value: ir.Value) -> bool:
    """Whether a value is a layer's output, or that through an activation function."""
    producer = value.producer()
    while producer is not None and producer.op_type in PASSED:
        producer = producer.inputs[0].producer() if producer.inputs[0] is not None else None
    return producer is not None and producer.op_type in WEIGHTED


def _weight_shape(node: ir.Node) -> tuple[int, ...]:
    weight = node.inputs[1]
    producer = weight.producer() if weight is not None else None
    if producer is not None:
        weight = producer.inputs[0]
    assert weight is not None
    return _constant(weight).shape


def _constant(value: ir.Value) -> NDArray[np.generic]:
    assert value.const_value is not None
    return value.const_value.numpy()
