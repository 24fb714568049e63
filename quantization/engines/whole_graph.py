"""Q/DQ through the whole graph, for engines that run an operator in integers only between integers.

ONNX Runtime fuses DequantizeLinear → operator → QuantizeLinear into one integer operator. So every activation between
two quantized layers lies on a grid here, and not the layers' inputs alone:

- A value that layers take, directly or through operators that only move values (Concat, Split, MaxPool, nearest Resize,
  Reshape, Transpose, Slice), gets the student's own grid: rounding commutes with moving, so nothing changes.
- What training did not see (outputs of convolutions before SiLU, the Sigmoid's output, sums), and what several layers
  take by different grids, gets 8 bits of least squared error over calibration images. Before SiLU the error is measured
  behind it: far below zero the function is flat, and steps are better spent elsewhere. Where a concatenation rounds the
  value again, both errors count.
- Where a layer takes fewer than 8 bits of such a value, it is quantized once more, for that layer.
- Fewer than 8 bits need a Clip on the integers, but not where SiLU or ReLU bounds the value from below and the integers
  are the largest that storage has, so that it saturates above.

What is decoded, and what comes from no quantized layer, stays in float.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from torch.nn import functional as F

from quantization.calibrate import HistogramObserver, activation_step_size
from quantization.onnx.activations import (
    Demand,
    Grid,
    put_in_activation,
    take_out_activations,
)
from quantization.onnx.initializers import remove_unused_initializers
from quantization.onnx.observe import observe
from quantization.onnx.quantizers import STORED_BITS
from quantization.plan import QuantizerSpec

MOVES = frozenset({"MaxPool", "Resize", "Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze", "Flatten"})
"""Operators that move values of their first input: their outputs have its grid."""
COMPUTES = frozenset({"Sigmoid", "Mul", "Add", "Concat"})
"""Operators with a grid of their own for each input and the output."""
FOLDS = frozenset({"Relu", "Clip"})
"""Operators that the engine folds into the quantizer behind them, so that none stands before them."""
PICKS = frozenset({"Gather", "GatherElements", "GatherND", "RoiAlign"})
"""Operators whose first input holds values, and whose others say where to take them: those are decoded, in float."""
SIGMOID = Grid.of_bits(1 / 255, 0)
"""Of a Sigmoid's output: 0 to 1."""
LOWEST_SILU = -0.2815
"""Of x · sigmoid(x), whose minimum is −0.2785, with a sigmoid of 256 steps."""
UINT8 = QuantizerSpec(STORED_BITS, "per_tensor", "affine")


def place_everywhere(model: onnx.ModelProto, images: NDArray[np.float32]) -> onnx.ModelProto:
    """A model with Q/DQ on the inputs of its quantized layers, with Q/DQ on every activation between them instead.

    Args:
        model: as `quantization.onnx.export` makes it; it stays as it is.
        images: `(B, 3, H, W)` of the calibration set; they decide the grids that the student does not have.
    """
    moved = ir.from_proto(model)
    placement = Placement(moved.graph, take_out_activations(moved.graph))
    seen = observe(model, [str(value.name) for value in placement.undecided], images)
    placement.put_in({value: placement.least_error(value, seen[str(value.name)]) for value in placement.undecided})
    remove_unused_initializers(moved.graph)
    placed: onnx.ModelProto = ir.to_proto(moved)
    return placed


class Placement:
    """Which values of a graph lie on a grid, and where the student's own grids go.

    Args:
        graph: without activation quantizers.
        demands: of its quantized layers.

    Attributes:
        values: those that lie on a grid, in graph order.
        undecided: those among them whose grid the student does not have; whatever is moved has the grid of its source.
    """

    def __init__(self, graph: ir.Graph, demands: Sequence[Demand]) -> None:
        self._graph = graph
        self._layers = {demand.node for demand in demands}
        self._demands = {(demand.node, demand.index): demand.grid.as_unsigned() for demand in demands}
        self.values = self._between_layers()
        self._on_grid = set(self.values)
        self._decided: dict[ir.Value, Grid | None] = {}
        self._sources = {value: self._source(value) for value in self.values}
        sources = dict.fromkeys(self._sources.values())
        self._lowest = {source: lowest_value(source) for source in sources}
        self.undecided = [source for source in sources if self._grid_of_student(source) is None]

    def least_error(self, value: ir.Value, seen: HistogramObserver) -> Grid:
        """The 8-bit grid of an undecided value with the least squared error, summed over all who take it.

        Some round the value again, on a grid of their own. Where that is nearly as fine as the value's best grid, it
        serves all: one rounding errs less than two, and the engine has nothing to convert.

        Args:
            value: whose grid the student does not have.
            seen: what it holds over the calibration images.
        """
        best = _least_squares(seen, value)
        again = [grid if rounds else None for grid, rounds in self._takers(value)]
        values = seen.centres()

        def error(grid: Grid) -> float:
            rounded = grid.nearest(values)
            taken = [rounded if other is None else other.nearest(rounded) for other in again]
            return sum(float((each - values).square() @ seen.counts) for each in taken)

        return min([best, *(grid for grid in dict.fromkeys(again) if grid and grid.fills_storage)], key=error)

    def put_in(self, chosen: Mapping[ir.Value, Grid]) -> None:
        """Quantize every value, in the graph.

        Args:
            chosen: grids of the undecided values.
        """
        for value in self.values:
            source = self._sources[value]
            grid = chosen[source] if source in chosen else self._decided[source]
            assert grid is not None  # else it is undecided
            users = list(value.uses())
            if value.is_graph_input():  # its size is asked for, too, which needs no integers
                users = [use for use in users if (use.node, use.idx) in self._demands]
            # Integers at the top of the storage saturate above by themselves, and nothing comes from below.
            saturates = not grid.fills_storage and grid.reaches_down_to(self._lowest[source])
            stored = grid.at_the_top() if saturates else grid
            clip = value is source and not saturates
            dequantized = put_in_activation(self._graph, value, stored, str(value.name), clip=clip)
            again: dict[Grid, ir.Value] = {}
            for use in users:
                wanted = self._demands.get((use.node, use.idx), grid)
                taken = dequantized
                if wanted != grid and not wanted.fills_storage:
                    name = f"{value.name}_{len(again)}"
                    if wanted not in again:
                        again[wanted] = put_in_activation(self._graph, dequantized, wanted, name, clip=True)
                    taken = again[wanted]
                use.node.replace_input_with(use.idx, taken)

    def _between_layers(self) -> list[ir.Value]:
        """Inputs of layers, outputs of layers before others, and what lies between by operators that can be integer."""
        ahead = _producers_before(demand for demand in self._inputs())
        found = dict.fromkeys(value for value in self._graph.inputs if self._is_demanded(value))
        for node in self._graph:
            if node in ahead and node in self._layers:
                found[_folded(node.outputs[0])] = None
            elif node in ahead and _can_be_integer(node, found):
                found |= dict.fromkeys(node.outputs)
            found |= dict.fromkeys(value for value in node.outputs if self._is_demanded(value))
        while idle := [value for value in found if not self._serves(value, found)]:
            for value in idle:
                del found[value]
        return list(found)

    def _inputs(self) -> list[ir.Value]:
        return [value for node, index in self._demands if (value := node.inputs[index]) is not None]

    def _is_demanded(self, value: ir.Value) -> bool:
        return any((use.node, use.idx) in self._demands for use in value.uses())

    def _serves(self, value: ir.Value, found: Mapping[ir.Value, None]) -> bool:
        """Whether integers come from a layer or go into an operator: else nothing is won by them."""
        producer = value.producer()
        given = producer is not None and (producer in self._layers or producer.op_type in FOLDS)
        taken = any(output in found for use in value.uses() for output in use.node.outputs)
        return given or taken or self._is_demanded(value)

    def _source(self, value: ir.Value) -> ir.Value:
        """The value that was moved to become this one; itself where it was not."""
        producer = value.producer()
        if producer is None or producer.op_type not in MOVES or producer.inputs[0] not in self._on_grid:
            return value
        assert producer.inputs[0] is not None
        return self._source(producer.inputs[0])

    def _grid_of_student(self, source: ir.Value) -> Grid | None:
        """The one grid that all who take a value ask of it; None where they ask for several, or some for none."""
        if source not in self._decided:
            producer = source.producer()
            if producer is not None and producer.op_type == "Sigmoid":
                self._decided[source] = SIGMOID
            else:
                asked = {grid for grid, _ in self._takers(source)}
                grid = next((grid for grid in asked if grid is not None), None)
                # Whoever asks for none can live with 8 bits, but not with fewer.
                single = grid is not None and asked <= ({grid, None} if grid.fills_storage else {grid})
                self._decided[source] = grid if single else None
        return self._decided[source]

    def _takers(self, value: ir.Value) -> list[tuple[Grid | None, bool]]:
        """For each who takes a value, through moves: the grid it asks for, or None, and whether it rounds the value."""
        takers: list[tuple[Grid | None, bool]] = []
        for use in value.uses():
            outputs = [output for output in use.node.outputs if output in self._on_grid]
            demand = self._demands.get((use.node, use.idx))
            if demand is not None:
                takers.append((demand, not demand.fills_storage))
            elif outputs and use.node.op_type in MOVES:
                takers += [taker for output in outputs for taker in self._takers(output)]
            elif outputs and use.node.op_type == "Concat":
                takers.append((self._grid_of_student(outputs[0]), True))
            else:
                takers.append((None, False))
        return takers


def lowest_value(value: ir.Value) -> float:
    """What a value is never below, by the activation function that it comes from; −∞ where that is not known."""
    producer = value.producer()
    if producer is None:
        return -math.inf
    first = producer.inputs[0]
    if producer.op_type in ("Relu", "Sigmoid"):
        return 0.0
    if producer.op_type in MOVES and first is not None:
        return lowest_value(first)
    if producer.op_type == "Concat":
        return min(lowest_value(each) for each in producer.inputs if each is not None)
    if producer.op_type == "Mul" and any(_goes_into_silu(each) for each in producer.inputs if each is not None):
        return LOWEST_SILU
    return -math.inf


def _producers_before(values: Iterable[ir.Value]) -> set[ir.Node]:
    """All nodes that the values are computed from."""
    pending = list(values)
    found: set[ir.Node] = set()
    while pending:
        producer = pending.pop().producer()
        if producer is not None and producer not in found:
            found.add(producer)
            taken = producer.inputs[:1] if producer.op_type in PICKS else producer.inputs
            pending += [value for value in taken if value is not None]
    return found


def _can_be_integer(node: ir.Node, found: Mapping[ir.Value, None]) -> bool:
    """Whether a node takes only values on grids, of those that matter."""
    if node.op_type in MOVES:
        return node.inputs[0] in found
    return node.op_type in COMPUTES and all(value in found for value in node.inputs)


def _folded(output: ir.Value) -> ir.Value:
    """A layer's output, behind the activation function that its engine folds into it."""
    users = output.consumers()
    return users[0].outputs[0] if len(users) == 1 and users[0].op_type in FOLDS else output


def _least_squares(seen: HistogramObserver, value: ir.Value) -> Grid:
    step_size, zero_point = activation_step_size(seen, UINT8, F.silu if _goes_into_silu(value) else lambda x: x)
    return Grid.of_bits(step_size.item(), int(zero_point.item()))


def _goes_into_silu(value: ir.Value) -> bool:
    """Whether a value goes into x · sigmoid(x) and nothing else."""
    users = value.consumers()
    kinds = {node.op_type: node for node in users}
    silu = len(users) == 2 and kinds.keys() == {"Sigmoid", "Mul"}
    return silu and kinds["Sigmoid"].outputs[0] in kinds["Mul"].inputs
