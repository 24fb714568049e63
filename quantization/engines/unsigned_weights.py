"""Weights of 8 bits as UINT8, where sums of signed ones could overflow.

Processors without VNNI instructions (x86 with AVX2 alone, or the first AVX-512) multiply unsigned activations by signed
weights in pairs, and add each pair in 16 bits, which saturate: 255 · 127 · 2 is nearly twice what they hold. ONNX
Runtime's kernels do so without a word. For unsigned weights it has kernels of 32 bits there, and with VNNI the very
same ones. Weights within 7 bits never overflow, and stay as they are.
"""

import numpy as np
import onnx
import onnx_ir as ir
import torch

from quantization.engines.target import engine_target
from quantization.onnx.initializers import add_initializer, remove_unused_initializers
from schemas.planned_bits import SAFE_BITS
from schemas.student import OnnxManifest

SAFE = (-(2 ** (SAFE_BITS - 1)), 2 ** (SAFE_BITS - 1) - 1)
"""Signed integers whose products with two unsigned bytes fit into 16 bits together."""
MIDDLE = 128
"""The unsigned integer that stands for 0."""


def sums_overflow_here() -> bool:
    """Whether this is an x86 processor without VNNI, whose engines add products of 8 bits in 16."""
    found = torch.cpu.get_capabilities()
    return found.get("architecture") == "x86_64" and not (found.get("avx_vnni") or found.get("avx512_vnni"))


def overflow_remark(described: OnnxManifest) -> str | None:
    """What to know and to do where sums of a file overflow on a processor like this one; None where they do not."""
    engine = engine_target(described.target)
    wide = sum(count for bits, count in described.weight_tensors.items() if int(bits) > SAFE_BITS)
    if not (engine.overflows_without_vnni and wide and sums_overflow_here()):
        return None
    layers = sum(described.weight_tensors.values())
    return (
        "this processor has no VNNI instructions, and without them sums of 8-bit weights may overflow in "
        f"{engine.title}: {wide} of {layers} layers have such; with --bits w7a8 none has (docs/engines.md)"
    )


def unsigned_where_sums_overflow(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose INT8 weights beyond 7 bits are UINT8 with a zero point of 128; their values are the same."""
    changed = ir.from_proto(model)
    graph = changed.graph
    for node in [node for node in graph if node.op_type == "DequantizeLinear"]:
        integers, scale = node.inputs[:2]
        if integers is None or scale is None or integers.const_value is None or scale.const_value is None:
            continue
        values = integers.const_value.numpy()
        if values.dtype != np.int8 or (values.min() >= SAFE[0] and values.max() <= SAFE[1]):
            continue
        name = f"{node.outputs[0].name}_unsigned"
        shifted = (values.astype(np.int16) + MIDDLE).astype(np.uint8)
        middle = np.full(scale.const_value.shape.numpy(), MIDDLE, np.uint8)
        node.resize_inputs(3)
        node.replace_input_with(0, add_initializer(graph, name, shifted))
        node.replace_input_with(2, add_initializer(graph, f"{name}_zero_point", middle))
    remove_unused_initializers(graph)
    result: onnx.ModelProto = ir.to_proto(changed)
    return result
