"""Convolutions of few outputs, with further outputs that are zero and that nobody reads.

ONNX Runtime's fast convolutions of integers fill a register with 16 outputs, and take no layer of fewer. A layer of 8,
as a small YOLO has on one of its largest maps, is slower than one of 16. The layers behind it read the further channels
with weights of zero, so that all sums are the same integers.
"""

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from quantization.engines.census import dequantizer_of
from quantization.onnx.initializers import add_initializer, remove_unused_initializers

REGISTER = 16
"""Outputs that fill a register."""
ELEMENTWISE = frozenset({"QuantizeLinear", "DequantizeLinear", "Sigmoid", "Mul", "Relu", "Clip"})
"""Operators that keep channels apart."""


@dataclass(frozen=True)
class Weight:
    """The weight of a quantized convolution.

    Attributes:
        dequantize: the node that gives it.
        integers: `(outputs, channels, k, k)`.
        scale: `(outputs,)`, or `()` for the whole tensor.
    """

    dequantize: ir.Node
    integers: NDArray[np.int8]
    scale: NDArray[np.float32]


def narrow_layers_filled_up(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose quantized convolutions have at least 16 outputs, where only convolutions read them."""
    changed = ir.from_proto(model)
    graph = changed.graph
    for node in graph:
        weight = _weight(node)
        if weight is None or len(weight.integers) >= REGISTER:
            continue
        values = _channelwise(node)
        readers = _readers(values)
        if readers:
            missing = REGISTER - len(weight.integers)
            _add_outputs(graph, node, weight, missing)
            for reader, taken in readers.items():
                _add_inputs(graph, reader, taken, missing)
            weights = [each.dequantize.outputs[0] for each in (weight, *readers.values())]
            for value in (*values, *weights):
                value.shape = None  # it has more channels now
    remove_unused_initializers(graph)
    result: onnx.ModelProto = ir.to_proto(changed)
    return result


def _channelwise(node: ir.Node) -> list[ir.Value]:
    """A node's output, and what elementwise operators make of it."""
    values = [node.outputs[0]]
    for value in values:
        users = [user for user in value.consumers() if user.op_type in ELEMENTWISE]
        values += [output for user in users for output in user.outputs if output not in values]
    return values


def _readers(values: list[ir.Value]) -> dict[ir.Node, Weight]:
    """The convolutions that read values; none where anything else than convolutions does, or multiplies by another."""
    users = {user: _weight(user) for value in values for user in value.consumers()}
    readers = {user: weight for user, weight in users.items() if weight is not None}
    products = [value for user in users if user.op_type == "Mul" for value in user.inputs]
    alone = all(user in readers or user.op_type in ELEMENTWISE for user in users)
    inside = all(value in values for value in products) and not any(value.is_graph_output() for value in values)
    return readers if alone and inside else {}


def _weight(node: ir.Node) -> Weight | None:
    """None where a node is no quantized convolution of one group."""
    dequantize = dequantizer_of(node.inputs[1]) if node.op_type == "Conv" else None
    if dequantize is None or node.attributes.get_int("group", 1) != 1:
        return None
    integers, scale = (None if value is None else value.const_value for value in dequantize.inputs[:2])
    if integers is None or scale is None or len(dequantize.inputs) > 2 or len(dequantize.outputs[0].consumers()) > 1:
        return None
    return Weight(dequantize, integers.numpy(), scale.numpy())


def _add_outputs(graph: ir.Graph, node: ir.Node, weight: Weight, missing: int) -> None:
    integers = np.pad(weight.integers, [(0, missing), (0, 0), (0, 0), (0, 0)])
    weight.dequantize.replace_input_with(0, add_initializer(graph, f"{node.name}_filled_integers", integers))
    if weight.scale.ndim:
        scale = np.pad(weight.scale, (0, missing), mode="edge")
        weight.dequantize.replace_input_with(1, add_initializer(graph, f"{node.name}_filled_scale", scale))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        assert bias.const_value is not None
        filled = np.pad(bias.const_value.numpy(), (0, missing))
        node.replace_input_with(2, add_initializer(graph, f"{node.name}_filled_bias", filled))


def _add_inputs(graph: ir.Graph, node: ir.Node, weight: Weight, missing: int) -> None:
    integers = np.pad(weight.integers, [(0, 0), (0, missing), (0, 0), (0, 0)])
    weight.dequantize.replace_input_with(0, add_initializer(graph, f"{node.name}_filled_inputs", integers))
