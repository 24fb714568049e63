"""Counting what a graph computes in integers, from its Q/DQ alone or from the operators that an engine made of it."""

from collections import Counter
from collections.abc import Iterable

import onnx
import onnx_ir as ir

from schemas.target import Census, FloatLayer

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "FusedMatMul", "FusedConv"})
"""Operators that do nearly all of a network's work."""
ACTIVATION_IN_FLOAT = "its input is not quantized: the student has no quantizer here"
OUTPUT_IN_FLOAT = "what it gives is decoded in float"


def census_of(by: str, integer: Iterable[str], floating: Iterable[str], layers: Iterable[FloatLayer]) -> Census:
    """A census from the kinds of operators, one entry an operator."""
    return Census(
        by=by,
        integer=dict(sorted(Counter(integer).items())),
        floating=dict(sorted(Counter(floating).items())),
        float_layers=tuple(layers),
    )


def dequantizer_of(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that gives a value; None where anything else does."""
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def _is_integer(value: ir.Value | None) -> bool:
    """Whether a layer can take a value as integers; a linear layer's weight is transposed on its way."""
    producer = value.producer() if value is not None else None
    return (
        _is_integer(producer.inputs[0])
        if producer and producer.op_type == "Transpose"
        else dequantizer_of(value) is not None
    )


def between_integers(model: onnx.ModelProto, by: str) -> Census:
    """The census of a file by its Q/DQ: a layer is integer where its input and its weight are dequantized."""
    nodes = [node for node in ir.from_proto(model).graph if node.op_type in LAYERS]
    integer = [node for node in nodes if all(_is_integer(value) for value in node.inputs[:2])]
    others = [node for node in nodes if node not in integer]
    layers = [FloatLayer(name=node.name or "", reason=ACTIVATION_IN_FLOAT) for node in others]
    return census_of(by, [node.op_type for node in integer], [node.op_type for node in others], layers)
