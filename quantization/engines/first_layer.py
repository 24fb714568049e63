"""A first convolution of few channels, as one of four times as many on a quarter of the positions.

Kernels for integers want channels side by side; three are too few to fill a register, and ONNX Runtime spends a tenth
of an INT8 YOLO11n on its first layer. Blocks of 2 × 2 pixels become channels (SpaceToDepth), and a kernel of stride 2
becomes one of stride 1 over blocks, with zeros where it reaches beyond its old taps. The sums are the same integers.
"""

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from quantization.engines.census import dequantizer_of
from quantization.onnx.initializers import add_initializer

BLOCK = 2
FEW_CHANNELS = 4


def first_layer_over_blocks(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose quantized first convolutions of stride 2 run over blocks; its input's sides must be even."""
    changed = ir.from_proto(model)
    graph = changed.graph
    for image in graph.inputs:
        for quantize in [node for node in image.consumers() if node.op_type == "QuantizeLinear"]:
            integers = quantize.outputs[0]
            dequantized = list(integers.consumers())
            layers = [user for node in dequantized for user in node.outputs[0].consumers()]
            if layers and all(_fits(layer) for layer in layers):
                name = f"{image.name}_blocks"
                blocks = ir.node("SpaceToDepth", [integers], {"blocksize": BLOCK}, name=name)
                blocks.outputs[0].name = f"{name}_output"
                graph.insert_after(quantize, blocks)  # which moves integers: a quarter of the bytes
                for node in dequantized:
                    node.replace_input_with(0, blocks.outputs[0])
                for layer in layers:
                    _over_blocks(graph, layer)
    result: onnx.ModelProto = ir.to_proto(changed)
    return result


def _fits(node: ir.Node) -> bool:
    """Whether a node is a convolution of stride 2 and few channels whose kernel covers `side / 2` positions."""
    if node.op_type != "Conv" or dequantizer_of(node.inputs[1]) is None:
        return False
    weight, pads = _integers(node), node.attributes.get_ints("pads", [0] * 4)
    padding, side = pads[0], weight.shape[2]
    plain = node.attributes.get_int("group", 1) == 1 and set(node.attributes.get_ints("dilations", [1, 1])) == {1}
    square = weight.shape[2] == weight.shape[3] and set(pads) == {padding}
    halves = side - BLOCK * padding in (1, 2)  # so that an even side gives half as many outputs
    strided = list(node.attributes.get_ints("strides", [1, 1])) == [BLOCK, BLOCK]
    return plain and square and halves and strided and weight.shape[1] <= FEW_CHANNELS


def _over_blocks(graph: ir.Graph, node: ir.Node) -> None:
    weight, padding = _integers(node), node.attributes.get_ints("pads", [0] * 4)[0]
    dequantize = dequantizer_of(node.inputs[1])
    assert dequantize is not None
    values, before, after = kernel_over_blocks(weight, padding)
    old = dequantize.inputs[0]
    dequantize.replace_input_with(0, add_initializer(graph, f"{node.name}_block_integers", values))
    dequantize.outputs[0].shape = None  # the kernel has another one now
    if old is not None and not old.uses():
        del graph.initializers[str(old.name)]
    for name, numbers in {
        "kernel_shape": list(values.shape[2:]),
        "strides": [1, 1],
        "pads": [before, before, after, after],
    }.items():
        node.attributes[name] = ir.AttrInt64s(name, numbers)


def kernel_over_blocks(weight: NDArray[np.int8], padding: int) -> tuple[NDArray[np.int8], int, int]:
    """The kernel over blocks of 2 × 2 pixels that computes what one of stride 2 does.

    Args:
        weight: `(outputs, channels, k, k)`.
        padding: on every side, pixels.

    Returns:
        `(outputs, 4 · channels, m, m)`, channels as SpaceToDepth orders them, and the padding before and after, blocks.
    """
    outputs, channels, side, _ = weight.shape
    block, inside = np.divmod(np.arange(side) - padding, BLOCK)
    before, after = -block.min(), block.max()
    larger = np.zeros((outputs, BLOCK, BLOCK, channels, before + after + 1, before + after + 1), weight.dtype)
    for row in range(side):
        for column in range(side):
            at = (block[row] + before, block[column] + before)
            larger[:, inside[row], inside[column], :, at[0], at[1]] = weight[:, :, row, column]
    return larger.reshape(outputs, BLOCK * BLOCK * channels, *larger.shape[4:]), int(before), int(after)


def _integers(node: ir.Node) -> NDArray[np.int8]:
    dequantize = dequantizer_of(node.inputs[1])
    assert dequantize is not None and dequantize.inputs[0] is not None
    assert dequantize.inputs[0].const_value is not None
    return dequantize.inputs[0].const_value.numpy()
