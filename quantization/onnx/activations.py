"""Activation quantizers of an exported model: taken out as grids, and put in elsewhere.

In a graph an activation quantizer is a QuantizeLinear and a DequantizeLinear in a row (Q/DQ), with a Clip before them
where fewer than 8 bits are in use. The export puts one before each quantized layer; engines want them in other places,
which `quantization.engines` decides.
"""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from torch import Tensor

from quantization.onnx.initializers import add_initializer
from quantization.onnx.quantizers import STORED_BITS

ON_THE_GRID = 1e-3
"""Share of a step that an end of a grid may be off after arithmetic in float32."""


@dataclass(frozen=True)
class Grid:
    """The values that an activation may take: x̂ = (clamp(round(x / scale) + zero, lowest, highest) − zero) · scale.

    Attributes:
        scale: step size, exactly a float32.
        zero: the integer that stands for 0.
        lowest: smallest integer in use.
        highest: largest integer in use.
        signed: whether integers are stored as INT8; else as UINT8.
    """

    scale: float
    zero: int
    lowest: int
    highest: int
    signed: bool

    @classmethod
    def of_bits(cls, scale: float, zero: int, bits: int = STORED_BITS, *, signed: bool = False) -> "Grid":
        """All integers of so many bits."""
        lowest = -(2 ** (bits - 1)) if signed else 0
        return cls(float(np.float32(scale)), zero, lowest, lowest + 2**bits - 1, signed)

    @property
    def fills_storage(self) -> bool:
        """Whether storing as 8 bits saturates just where the grid ends."""
        return self.highest - self.lowest == (1 << STORED_BITS) - 1

    @property
    def bits(self) -> int:
        """Bits that the integers in use need."""
        return (self.highest - self.lowest).bit_length()

    def nearest(self, x: Tensor) -> Tensor:
        """The values of the grid that stand for `x`, in its shape."""
        integers = (x / self.scale).round().add(self.zero).clamp(self.lowest, self.highest)
        return integers.sub(self.zero).mul(self.scale)

    def as_unsigned(self) -> "Grid":
        """The same values by unsigned integers."""
        return replace(self._shifted(2 ** (STORED_BITS - 1) if self.signed else 0), signed=False)

    def at_the_top(self) -> "Grid":
        """The same values by the largest integers of the storage, which then saturates where the grid ends."""
        end = 2 ** (STORED_BITS - 1) if self.signed else 2**STORED_BITS
        return self._shifted(end - 1 - self.highest)

    def reaches_down_to(self, value: float) -> bool:
        """Whether nothing from `value` on is rounded to less than the lowest integer."""
        return value / self.scale + self.zero >= self.lowest - 0.5

    def _shifted(self, by: int) -> "Grid":
        return replace(self, zero=self.zero + by, lowest=self.lowest + by, highest=self.highest + by)


@dataclass(frozen=True)
class Demand:
    """An input of a layer that the student quantizes: which input of which node, and the student's grid."""

    node: ir.Node
    index: int
    grid: Grid

    @property
    def value(self) -> ir.Value:
        """The activation that goes in."""
        value = self.node.inputs[self.index]
        assert value is not None
        return value


def take_out_activations(graph: ir.Graph) -> list[Demand]:
    """Remove every activation quantizer of a graph, in place: what each layer asked of its inputs, in graph order."""
    demands: list[Demand] = []
    for quantize in [node for node in graph if node.op_type == "QuantizeLinear"]:
        grid = _grid(quantize)
        source, chain = _input(quantize, 0), [quantize]
        clip = source.producer()
        if clip is not None and clip.op_type == "Clip" and len(source.uses()) == 1 and _narrows(clip, grid):
            grid = _clipped(grid, clip)
            source = _input(clip, 0)
            chain.append(clip)
        for dequantize in list(quantize.outputs[0].consumers()):
            demands += [Demand(user.node, user.idx, grid) for user in dequantize.outputs[0].uses()]
            dequantize.outputs[0].replace_all_uses_with(source)
            chain.insert(0, dequantize)
        for node in chain:
            graph.remove(node, safe=True)
    return demands


def leave_activations_in_float(graph: ir.Graph) -> None:
    """Remove every activation quantizer of a graph, in place, wherever it lies.

    A Clip in float that stops short of all integers of the storage belongs to a quantizer of fewer bits; any other is
    the network's own and stays.
    """
    for quantize in [node for node in graph if node.op_type == "QuantizeLinear"]:
        source = _input(quantize, 0)
        if (clip := source.producer()) is not None and clip.op_type == "Clip" and _narrows(clip, _grid(quantize)):
            source = _input(clip, 0)
        integers = [(quantize.outputs[0], source)]
        for value, in_float in integers:
            for node in list(value.consumers()):
                if node.op_type == "DequantizeLinear":
                    node.outputs[0].replace_all_uses_with(in_float, replace_graph_outputs=True)
                    graph.remove(node, safe=True)
                elif node.op_type == "Clip":
                    integers.append((node.outputs[0], in_float))
                else:  # moves values, whatever they are, or asks for their shape
                    for index in [index for index, each in enumerate(node.inputs) if each is value]:
                        node.replace_input_with(index, in_float)
                    if node.op_type != "Shape":
                        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
                        integers.append((node.outputs[0], node.outputs[0]))


def _narrows(clip: ir.Node, grid: Grid) -> bool:
    """Whether a Clip before a quantizer is the part of it that holds fewer bits, and not the network's own."""
    ends = [None if end is None or end.const_value is None else _number(end) for end in clip.inputs[1:]]
    if len(ends) < 2 or any(end is None for end in ends):
        return False
    steps = [float(end) / grid.scale for end in ends if end is not None]
    return _clipped(grid, clip).bits < STORED_BITS and all(abs(step - round(step)) < ON_THE_GRID for step in steps)


def put_in_activation(graph: ir.Graph, value: ir.Value, grid: Grid, name: str, *, clip: bool) -> ir.Value:
    """Quantize a value and dequantize it; whoever takes the value goes on taking it as it is, until told otherwise.

    Args:
        graph: that the value is in; it changes in place.
        value: the activation.
        grid: what it is rounded to.
        name: of the new nodes and values, with an ending each.
        clip: hold integers within the grid where storage has more; not needed for integers that are there already.

    Returns:
        The dequantized value.
    """
    kind = np.int8 if grid.signed else np.uint8
    scale, zero = _constant(graph, np.float32(grid.scale)), _constant(graph, kind(grid.zero))
    nodes = [ir.node("QuantizeLinear", [value, scale, zero], name=f"{name}_quantize")]
    if clip and not grid.fills_storage:
        ends = [_constant(graph, kind(end)) for end in (grid.lowest, grid.highest)]
        nodes.append(ir.node("Clip", [nodes[-1].outputs[0], *ends], name=f"{name}_clip"))
    nodes.append(ir.node("DequantizeLinear", [nodes[-1].outputs[0], scale, zero], name=f"{name}_dequantize"))
    for node in nodes:
        node.outputs[0].name = f"{node.name}d"
    if (producer := value.producer()) is None:
        graph.insert_before(next(iter(graph)), nodes)
    else:
        graph.insert_after(producer, nodes)
    return nodes[-1].outputs[0]


def _grid(quantize: ir.Node) -> Grid:
    zero = _number(_input(quantize, 2))
    return Grid.of_bits(float(_number(_input(quantize, 1))), int(zero), signed=zero.dtype == np.int8)


def _clipped(grid: Grid, clip: ir.Node) -> Grid:
    low, high = (round(float(_number(_input(clip, at))) / grid.scale) + grid.zero for at in (1, 2))
    return replace(grid, lowest=max(low, grid.lowest), highest=min(high, grid.highest))


def _input(node: ir.Node, at: int) -> ir.Value:
    value = node.inputs[at]
    assert value is not None
    return value


def _number(value: ir.Value) -> np.generic:
    assert value.const_value is not None
    number: np.generic = value.const_value.numpy().reshape(-1)[0]
    return number


def _constant(graph: ir.Graph, number: np.generic) -> ir.Value:
    """A scalar initializer; equal ones are there once."""
    name = f"activation_{number.dtype.name}_{number.tobytes().hex()}"
    return graph.initializers[name] if name in graph.initializers else add_initializer(graph, name, np.asarray(number))
