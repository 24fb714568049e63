"""TensorRT, explicit quantization: symmetric INT8 on inputs of layers, on skips of sums, and across concatenations.

What training simulated is kept but for one thing: where a skip is quantized for a layer, the sum takes it quantized
too.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from quantization.engines.census import between_integers
from quantization.engines.target import Images
from quantization.engines.tensorrt_rules import broken_rules, is_narrow, quantizers_of, scale_of, skips
from quantization.onnx.activations import Grid, put_in_activation
from quantization.onnx.initializers import add_initializer, remove_unused_initializers
from schemas.errors import VerificationError
from schemas.eval_config import EngineName
from schemas.student import QuantizerRecord
from schemas.target import Census

ACTIVATION_BITS = 8


class TensorRt:
    """Implements `quantization.engines.target.OnnxTarget`."""

    title = "TensorRT"
    placement = "INT8 without zero points on inputs of layers, skips of sums and all sides of concatenations"
    measured = "docs/engines.md#tensorrt: its rules are checked, no GPU was at hand"
    runs_in: EngineName = "onnxruntime"
    needs_images = False
    overflows_without_vnni = False

    def obstacle(self, quantizers: Sequence[QuantizerRecord]) -> str | None:
        if any(quantizer.scheme == "affine" for quantizer in quantizers):
            return "TensorRT takes no zero points, and this student's activations have them; set bits.quantizer to lsq"
        narrow = {q.bits for q in quantizers if not q.name.endswith(".weight")} - {ACTIVATION_BITS}
        if narrow:
            return f"TensorRT takes activations of 8 bits, not {min(narrow)}; set bits.activation_bits to 8"
        return None

    def place(self, model: onnx.ModelProto, images: Images | None) -> onnx.ModelProto:
        placed = ir.from_proto(model)
        graph = placed.graph
        for node in [node for node in graph if node.op_type == "Conv" and is_narrow(node)]:
            _leave_in_float(graph, node)
        for node in [node for node in graph if node.op_type == "Concat"]:
            _quantize_inputs(graph, node)
        for node in [node for node in graph if node.op_type == "Add"]:
            for skip, _ in skips(node):
                if takers := quantizers_of(skip):
                    finest = min(takers, key=scale_of).outputs[0].consumers()[0].outputs[0]
                    node.replace_input_with(node.inputs.index(skip), finest)
        remove_unused_initializers(graph)
        graph.sort()
        result: onnx.ModelProto = ir.to_proto(placed)
        return result

    def census(self, path: Path) -> Census:
        model = onnx.load(path)
        if broken := broken_rules(ir.from_proto(model).graph):
            more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
            raise VerificationError(f"{path}: TensorRT would refuse it or be slow: {broken[0]}{more}")
        return between_integers(model, "TensorRT's rules, checked without it")


def _leave_in_float(graph: ir.Graph, node: ir.Node) -> None:
    """Take the quantizers of a layer's input and weight away; the weight keeps its rounded values."""
    value, weight = node.inputs[0], node.inputs[1]
    dequantize = value.producer() if value is not None else None
    if dequantize is not None and dequantize.op_type == "DequantizeLinear":
        quantize = dequantize.inputs[0].producer() if dequantize.inputs[0] is not None else None
        assert quantize is not None
        node.replace_input_with(0, quantize.inputs[0])
        for unused in (dequantize, quantize):
            if not unused.outputs[0].uses():
                graph.remove(unused, safe=True)
    dequantize = weight.producer() if weight is not None else None
    if dequantize is None:
        return
    integers, scale = (value.const_value.numpy() for value in dequantize.inputs[:2] if value and value.const_value)
    scale = scale.reshape(-1, *[1] * (integers.ndim - 1)) if scale.size > 1 else scale
    name = f"{node.name}_weight"
    node.replace_input_with(1, add_initializer(graph, name, integers.astype(np.float32) * scale))
    if not dequantize.outputs[0].uses():
        graph.remove(dequantize, safe=True)


def _quantize_inputs(graph: ir.Graph, node: ir.Node) -> None:
    """Quantize what a concatenation takes as what it gives is: the same values, rounded before instead of after."""
    scales = {scale_of(taker) for taker in quantizers_of(node.outputs[0])}
    if len(scales) != 1:
        return
    grid = Grid.of_bits(scales.pop(), 0, signed=True)
    for index, value in enumerate(node.inputs):
        assert value is not None
        dequantized = put_in_activation(graph, value, grid, f"{node.name}_{index}", clip=False)
        node.replace_input_with(index, dequantized)


ENGINE = TensorRt()
