"""Weights of linear layers with the zero points that ONNX Runtime asks for.

It makes a QGemm of a Gemm only where its weight is dequantized with a zero point, be it 0; of a Conv it asks none.
"""

import numpy as np
import onnx
import onnx_ir as ir

from quantization.engines.census import dequantizer_of
from quantization.onnx.initializers import add_initializer


def weights_with_zero_points(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose quantized Gemm weights have zero points of 0; it computes the same."""
    changed = ir.from_proto(model)
    graph = changed.graph
    for node in [node for node in graph if node.op_type == "Gemm"]:
        dequantize = dequantizer_of(node.inputs[1])
        if dequantize is None:
            continue
        integers, scale = dequantize.inputs[:2]
        if len(dequantize.inputs) > 2 or integers is None or integers.dtype is None or scale is None:
            continue
        assert scale.const_value is not None
        name = f"{dequantize.outputs[0].name}_zero_point"
        values = np.zeros(scale.const_value.shape.numpy(), integers.dtype.numpy())
        dequantize.resize_inputs(3)
        dequantize.replace_input_with(2, add_initializer(graph, name, values))
    result: onnx.ModelProto = ir.to_proto(changed)
    return result
