"""Stored tensors of a graph: added with a name, and dropped where no node takes them any more."""

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray


def add_initializer(graph: ir.Graph, name: str, values: NDArray[Any]) -> ir.Value:
    """Store an array in a graph under a name that it does not have yet."""
    tensor = ir.tensor(values, name=name)
    value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(values.shape))
    graph.register_initializer(value)
    return value


def remove_unused_initializers(graph: ir.Graph) -> None:
    """Drop what no node takes any more."""
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
