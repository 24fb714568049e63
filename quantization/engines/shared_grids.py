"""One grid for all who read a value, where their own grids are nearly as fine.

A student has a quantizer before each layer. Where a layer reads a value, and another reads it through a concatenation,
the value has two grids; OpenVINO then keeps it in float, and moves four times the bytes through Split and Concat. So
the coarsest of the grids serves all readers if it is at most twice as coarse as the finest. A reader whose own grid is
finer then loses at most one of its 8 bits. Values that sums read in float stay in float, and activations of fewer bits
stay as they are.
"""

from collections.abc import Iterable, Mapping

import onnx
import onnx_ir as ir

from quantization.engines.whole_graph import MOVES
from quantization.onnx.activations import Grid, put_in_activation, take_out_activations
from quantization.onnx.initializers import remove_unused_initializers

COARSER = 2.0
"""How much coarser than a reader's own grid the shared one may be."""
Use = tuple[ir.Node, int]
"""An input of a node."""


def grids_shared(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model with Q/DQ on the inputs of its quantized layers, with one Q/DQ for all who read a value instead.

    Args:
        model: as `quantization.onnx.export` makes it. It stays as it is, and is given back where an activation has
            fewer than 8 bits.
    """
    changed = ir.from_proto(model)
    graph = changed.graph
    demands = take_out_activations(graph)
    if any(not demand.grid.fills_storage for demand in demands):
        return model
    own = {(demand.node, demand.index): demand.grid for demand in demands}
    values = [*[value for node in reversed(graph) for value in node.outputs], *graph.inputs]  # readers first
    shared = _shared(values, own)
    for value in values:
        grid = shared.get(value)
        if grid is None:
            for number, each in enumerate(dict.fromkeys(own[use] for use in _uses(value) if use in own)):
                users = [use for use in _uses(value) if own.get(use) == each]
                _quantize(graph, value, each, users, f"{value.name}_{number}")
        elif not _arrives_on(grid, value, shared):
            _quantize(graph, value, grid, _uses(value), str(value.name))
    remove_unused_initializers(graph)
    graph.sort()
    result: onnx.ModelProto = ir.to_proto(changed)
    return result


def _shared(values: Iterable[ir.Value], own: Mapping[Use, Grid]) -> dict[ir.Value, Grid]:
    """The one grid of each value whose readers, layers or operators that move it to such values, can share one."""
    shared: dict[ir.Value, Grid] = {}
    for value in values:
        asked = [_asked_by(use, own, shared) for use in _uses(value)]
        grids = [grid for each in asked for grid in each]
        in_float = value.is_graph_output() or not all(asked)  # somebody reads it so, as sums do
        if grids and not in_float and max(map(_scale, grids)) <= COARSER * min(map(_scale, grids)):
            shared[value] = max(grids, key=_scale)
    return shared


def _asked_by(use: Use, own: Mapping[Use, Grid], shared: Mapping[ir.Value, Grid]) -> list[Grid]:
    """The grids that a reader wants a value on; none where it takes floats."""
    node, index = use
    if use in own:
        return [own[use]]
    outputs = [output for output in node.outputs if output.uses()]
    keeps = _keeps_values(node) and (node.op_type == "Concat" or index == 0)
    return [shared[output] for output in outputs] if keeps and all(output in shared for output in outputs) else []


def _keeps_values(node: ir.Node) -> bool:
    """Whether a node only moves values, so that what lies on a grid stays there."""
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") == "nearest"
    return node.op_type in MOVES | {"Concat"}


def _arrives_on(grid: Grid, value: ir.Value, shared: Mapping[ir.Value, Grid]) -> bool:
    """Whether a value was moved from others that lie on this very grid, so that to round it changes nothing."""
    producer = value.producer()
    if producer is None or not _keeps_values(producer):
        return False
    sources = producer.inputs if producer.op_type == "Concat" else producer.inputs[:1]
    return all(source is not None and shared.get(source) == grid for source in sources)


def _quantize(graph: ir.Graph, value: ir.Value, grid: Grid, uses: Iterable[Use], name: str) -> None:
    dequantized = put_in_activation(graph, value, grid, name, clip=False)
    for node, index in uses:
        node.replace_input_with(index, dequantized)


def _uses(value: ir.Value) -> list[Use]:
    return [(use.node, use.idx) for use in value.uses()]


def _scale(grid: Grid) -> float:
    return grid.scale
