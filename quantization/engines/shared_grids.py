"""One grid for all who read a value, where their own grids are nearly as fine.

A student has a quantizer before each layer. Where a layer reads a value, and another reads it through a concatenation,
the value has two grids; OpenVINO then keeps it in float, and moves four times the bytes through Split and Concat. So
the coarsest of the grids serves all readers if it is at most twice as coarse as the finest: who reads on a finer grid
of 8 bits loses at most one of them. Values that sums read in float stay in float, and activations of fewer bits stay as
they are.
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
    asked = _asked(graph, own)
    shared = {value: max(grids, key=_scale) for value, grids in asked.items() if _can_share(value, own, asked)}
    for value in asked:
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


def _asked(graph: ir.Graph, own: Mapping[Use, Grid]) -> dict[ir.Value, set[Grid]]:
    """The grids that each value is read on, by layers and through operators that move it; without those of no layer."""
    asked: dict[ir.Value, set[Grid]] = {}
    computed = [value for node in reversed(graph) for value in node.outputs]
    for value in (*computed, *graph.inputs):
        grids = set[Grid]().union(*(_asked_by(use, own, asked) for use in _uses(value)))
        if grids:
            asked[value] = grids
    return asked


def _asked_by(use: Use, own: Mapping[Use, Grid], asked: Mapping[ir.Value, set[Grid]]) -> Iterable[Grid]:
    node, index = use
    if use in own:
        return [own[use]]
    moves = node.op_type == "Concat" or (node.op_type in MOVES and index == 0)
    if not moves or any(output not in asked for output in node.outputs if output.uses()):
        return []
    return [grid for output in node.outputs for grid in asked.get(output, ())]


def _can_share(value: ir.Value, own: Mapping[Use, Grid], asked: Mapping[ir.Value, set[Grid]]) -> bool:
    """Whether all who read a value can read it on one grid."""
    scales = [grid.scale for grid in asked[value]]
    everyone = all(_asked_by(use, own, asked) for use in _uses(value))  # and nobody reads it in float, as sums do
    return everyone and not value.is_graph_output() and max(scales) <= COARSER * min(scales)


def _arrives_on(grid: Grid, value: ir.Value, shared: Mapping[ir.Value, Grid]) -> bool:
    """Whether a value was moved from others that lie on this very grid, so that to round it changes nothing."""
    producer = value.producer()
    if producer is None or producer.op_type not in MOVES | {"Concat"}:
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
