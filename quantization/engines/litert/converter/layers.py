"""A student's layers, and where they are in the converted network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .model import Model, Scale

LAYERS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
"""Operations that have a weight, and the axis of its channels."""


@dataclass(frozen=True)
class Layer:
    """A quantized layer of the student.

    Attributes:
        name: of the module.
        integers: the weight, int8 as PyTorch has it: `(outputs, inputs, ...)`.
        steps: `(outputs,)` float32.
        input: how the layer's input is quantized.
        bits: of the weight.
    """

    name: str
    integers: NDArray[np.int8]
    steps: NDArray[np.float32]
    input: Scale
    bits: int

    @property
    def weight(self) -> NDArray[np.float32]:
        """The dequantized weight, bit by bit as PyTorch computes it."""
        values: NDArray[np.float32] = self.integers.astype(np.float32) * _column(self.steps, self.integers.ndim, 0)
        return values


def read_layers(arrays: Mapping[str, NDArray[Any]]) -> list[Layer]:
    """Layers from arrays named `<layer>.integers`, `<layer>.steps` and `<layer>.input` (step, zero point, bits)."""
    names = [name.removesuffix(".integers") for name in arrays if name.endswith(".integers")]
    layers = []
    for name in names:
        step, zero_point, bits = arrays[f"{name}.input"].tolist()
        layers.append(
            Layer(name, arrays[f"{name}.integers"], arrays[f"{name}.steps"], Scale(step, int(zero_point)), int(bits))
        )
    return layers


def find_layers(model: Model, layers: list[Layer]) -> dict[int, Layer]:
    """The layer of each operator that computes one, by the operator's place; found by the weight's values.

    Raises:
        ValueError: a layer is not there, or two with the same weight differ in the step sizes of their inputs.
    """
    by_weight: dict[tuple[tuple[int, ...], bytes], Layer] = {}
    for layer in layers:
        for layout in _layouts(layer.weight):
            other = by_weight.setdefault(_key(layout), layer)
            if other.input != layer.input:
                raise ValueError(f"layers {other.name} and {layer.name} have one weight: they cannot be told apart")
    found: dict[int, Layer] = {}
    for place, operator in enumerate(model.operators):
        if model.name(operator) not in LAYERS:
            continue
        weight = model.constant(operator.inputs[1])
        if weight is not None and _key(weight) in by_weight:
            found[place] = by_weight[_key(weight)]
    if missing := {layer.name for layer in layers} - {layer.name for layer in found.values()}:
        raise ValueError(f"layer {min(missing)} is not in the converted network")
    return found


def integers_for(layer: Layer, operation: str) -> NDArray[np.int8]:
    """A layer's weight as its operation wants it."""
    if layer.integers.ndim == 2:
        return layer.integers
    order = (1, 2, 3, 0) if operation == "DEPTHWISE_CONV_2D" else (0, 2, 3, 1)
    return np.ascontiguousarray(layer.integers.transpose(order))


def _key(weight: NDArray[Any]) -> tuple[tuple[int, ...], bytes]:
    """What a weight is recognised by; negative zeros count as zeros."""
    return weight.shape, np.ascontiguousarray(weight + 0.0).tobytes()


def _layouts(weight: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """A weight as the operations that may compute its layer have it."""
    if weight.ndim == 2:
        return [weight]
    layouts = [weight.transpose(0, 2, 3, 1)]
    if weight.shape[1] == 1:
        layouts.append(weight.transpose(1, 2, 3, 0))
    return layouts


def _column(steps: NDArray[np.float32], dimensions: int, axis: int) -> NDArray[np.float32]:
    shape = [1] * dimensions
    shape[axis] = -1
    return steps.reshape(shape)
