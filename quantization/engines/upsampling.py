"""Upsampling of integers to twice the size, as copies of rows.

ONNX Runtime's nearest Resize computes where each output comes from, and takes 3 % of an INT8 YOLO11n. Channels lie side
by side there, so that a pixel is written twice by a Concat along them, and a row of pixels by one along the row.
"""

import numpy as np
import onnx
import onnx_ir as ir

from quantization.engines.census import dequantizer_of
from quantization.onnx.initializers import add_initializer, remove_unused_initializers

TWICE = [1.0, 1.0, 2.0, 2.0]
"""Scales of batch, channels, height and width."""
CHANNELS_LAST, CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def upsampling_by_copies(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that copies integers in place of every nearest Resize to twice the size whose grid stays the same."""
    changed = ir.from_proto(model)
    graph = changed.graph
    for node in [node for node in graph if _fits(node)]:
        dequantize, quantize = dequantizer_of(node.inputs[0]), node.outputs[0].consumers()[0]
        assert dequantize is not None and dequantize.inputs[0] is not None
        copies = _copies(graph, dequantize.inputs[0], node.name or str(node.outputs[0].name))
        graph.insert_after(node, copies)
        quantize.outputs[0].replace_all_uses_with(copies[-1].outputs[0])
        graph.remove([quantize, node], safe=True)
    remove_unused_initializers(graph)
    result: onnx.ModelProto = ir.to_proto(changed)
    return result


def _fits(node: ir.Node) -> bool:
    """Whether a node repeats each pixel of an integer map once in each direction, and its grid stays."""
    users, dequantize = node.outputs[0].consumers(), dequantizer_of(node.inputs[0]) if node.inputs else None
    if node.op_type != "Resize" or dequantize is None or len(node.inputs) < 3 or len(users) != 1:
        return False
    scales = node.inputs[2].const_value if node.inputs[2] is not None else None
    return (
        node.attributes.get_string("mode") == "nearest"
        and node.attributes.get_string("nearest_mode") == "floor"
        and node.attributes.get_string("coordinate_transformation_mode") == "asymmetric"
        and scales is not None
        and scales.numpy().tolist() == TWICE
        and users[0].op_type == "QuantizeLinear"
        and tuple(users[0].inputs[1:]) == tuple(dequantize.inputs[1:])
    )


def _copies(graph: ir.Graph, integers: ir.Value, name: str) -> list[ir.Node]:
    """Nodes from integers `(B, C, H, W)` to integers `(B, C, 2 · H, 2 · W)`, which the last one gives."""
    rows = add_initializer(graph, f"{name}_rows", np.array([0, 0, -1]))
    twice = add_initializer(graph, f"{name}_twice", np.array([1, 2, 2, 1]))
    last = ir.node("Transpose", [integers], {"perm": CHANNELS_LAST}, name=f"{name}_last")  # (B, H, W, C)
    size = ir.node("Shape", last.outputs, name=f"{name}_size")
    larger = ir.node("Mul", [size.outputs[0], twice], name=f"{name}_larger")
    pixels = ir.node("Concat", [last.outputs[0]] * 2, {"axis": 3}, name=f"{name}_pixels")  # (B, H, W, 2 · C)
    flat = ir.node("Reshape", [pixels.outputs[0], rows], name=f"{name}_flat")  # (B, H, 2 · W · C)
    lines = ir.node("Concat", [flat.outputs[0]] * 2, {"axis": 2}, name=f"{name}_lines")
    image = ir.node("Reshape", [lines.outputs[0], larger.outputs[0]], name=f"{name}_image")  # (B, 2 · H, 2 · W, C)
    first = ir.node("Transpose", image.outputs, {"perm": CHANNELS_FIRST}, name=f"{name}_first")
    nodes = [last, size, larger, pixels, flat, lines, image, first]
    for node in nodes:
        node.outputs[0].name = f"{node.name}_output"
    return nodes
