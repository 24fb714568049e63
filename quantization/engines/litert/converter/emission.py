"""The operators of a placement, in the order they run."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .layers import LAYERS, Layer, integers_for
from .model import INTEGER, NIBBLE, WORD, Model, Scale, with_operands
from .placement import Float, Kind, Measured, Own, Placement, Version

LOWEST_BYTE = -127
"""Of an INT8 weight: LiteRT's kernels may rely on it."""
WORDS = 2**31 - 1


class Emission:
    """Writes a placement into a model, in place.

    Args:
        model: the float network.
        layers: the student's layer of each operator that computes one, by place.
        placement: what is computed, and how.
        ranges: the scale of every tensor that was to be calibrated.
        int4: store weights of up to 4 bits as INT4.
    """

    def __init__(
        self, model: Model, layers: Mapping[int, Layer], placement: Placement, ranges: Mapping[int, Scale], int4: bool
    ) -> None:
        self._model = model
        self._layers = layers
        self._placement = placement
        self._ranges = ranges
        self._int4 = int4
        self._made: dict[tuple[int, Scale | None], int] = {}
        self._own: dict[int, Scale] = {}
        self._operators: list[Any] = []
        self.clipped = 0
        """Weights of −128 that were stored as −127."""

    def run(self) -> None:
        """Replace the model's operators."""
        for tensor in self._model.inputs:
            self._made[tensor, None] = tensor
            self._own_of_float(tensor)
        writers = {
            Kind.FLOAT: self._float,
            Kind.MOVEMENT: self._movement,
            Kind.ARITHMETIC: self._arithmetic,
            Kind.FIXED: self._fixed,
            Kind.LAYER: self._layer,
            Kind.FLOAT_LAYER: self._float_layer,
        }
        for index, (operator, kind) in enumerate(zip(self._model.operators, self._placement.kinds, strict=True)):
            writers[kind](index, operator)
        self._model.operators = self._operators

    def _float(self, index: int, operator: Any) -> None:
        inputs = [self._tensor(int(tensor), Float()) for tensor in operator.inputs]
        self._operators.append(with_operands(operator, inputs, operator.outputs))
        for tensor in operator.outputs:
            self._made[int(tensor), None] = int(tensor)
            self._own_of_float(int(tensor))

    def _movement(self, index: int, operator: Any) -> None:
        first = next(int(tensor) for tensor in operator.inputs if self._model.constant(tensor) is None)
        for tensor in operator.outputs:
            chosen = self._placement.own.get(int(tensor))
            if chosen is not None:
                self._own[int(tensor)] = self._resolved(chosen)
            elif first in self._own:
                self._own[int(tensor)] = self._own[first]
        for scale in self._scales(int(operator.outputs[0])):
            inputs = [self._made_or_constant(int(tensor), scale) for tensor in operator.inputs]
            outputs = [self._new(int(tensor), scale) for tensor in operator.outputs]
            self._operators.append(with_operands(operator, inputs, outputs))

    def _arithmetic(self, index: int, operator: Any) -> None:
        inputs = [self._tensor(int(tensor), Own()) for tensor in operator.inputs]
        output = int(operator.outputs[0])
        if output in self._placement.own:
            self._own[output] = self._resolved(self._placement.own[output])
        scales = self._scales(output)
        if None in scales and self._own[output] not in scales:
            scales.append(self._own[output])
        for scale in sorted(scales, key=lambda scale: scale is None):  # float last: from one of the others
            if scale is None:
                self._convert(self._made[output, self._own[output]], output, None)
            else:
                self._operators.append(with_operands(operator, inputs, [self._new(output, scale)]))

    def _fixed(self, index: int, operator: Any) -> None:
        self._one_version(operator, [self._tensor(int(tensor), Own()) for tensor in operator.inputs])

    def _layer(self, index: int, operator: Any) -> None:
        layer = self._layers[index]
        operation = self._model.name(operator)
        source, weight, *bias = (int(tensor) for tensor in operator.inputs)
        inputs = [self._made[source, layer.input], self._weight(layer, weight, operation)]
        steps = layer.input.step * layer.steps.astype(np.float64)
        for tensor in bias:
            values = self._model.constant(tensor) if tensor >= 0 else None
            if values is not None:
                words = np.clip(np.rint(values / steps), -WORDS, WORDS).astype(np.int32)
                name = f"{layer.name}.bias"
                tensor = self._model.add_constant(tensor, words, WORD, steps.astype(np.float32), 0, name)
            inputs.append(tensor)
        self._one_version(operator, inputs)

    def _float_layer(self, index: int, operator: Any) -> None:
        layer = self._layers[index]
        source, weight, *bias = (int(tensor) for tensor in operator.inputs)
        integers = self._weight(layer, weight, self._model.name(operator))
        inputs = []
        for like, tensor in ((source, self._made[source, layer.input]), (weight, integers)):
            inputs.append(self._model.add_float(like))
            self._operators.append(self._model.converted(tensor, inputs[-1]))
        self._operators.append(with_operands(operator, [*inputs, *bias], operator.outputs))
        for tensor in operator.outputs:
            self._made[int(tensor), None] = int(tensor)

    def _weight(self, layer: Layer, tensor: int, operation: str) -> int:
        """A layer's weight as a constant; made once, where several operators compute with it."""
        key = (tensor, None)
        if key not in self._made:
            packed = self._int4 and layer.bits <= 4 and operation == "CONV_2D"
            values = integers_for(layer, operation)
            self.clipped += int((values < LOWEST_BYTE).sum())
            values = np.maximum(values, LOWEST_BYTE).astype(np.int8)
            self._made[key] = self._model.add_constant(
                tensor, values, NIBBLE if packed else INTEGER, layer.steps, LAYERS[operation], f"{layer.name}.weight"
            )
        return self._made[key]

    def _one_version(self, operator: Any, inputs: list[int]) -> None:
        """An operation with one integer output; other versions are converted from it."""
        output = int(operator.outputs[0])
        own = self._own[output] = self._resolved(self._placement.own[output])
        self._operators.append(with_operands(operator, inputs, [self._new(output, own)]))
        for scale in self._scales(output):
            if scale != own:
                self._convert(self._made[output, own], output, scale)

    def _own_of_float(self, tensor: int) -> None:
        """Quantize a float tensor to the scales that are asked for."""
        if tensor in self._placement.own:
            self._own[tensor] = self._resolved(self._placement.own[tensor])
        for scale in self._scales(tensor):
            if scale is not None:
                self._convert(tensor, tensor, scale)

    def _convert(self, source: int, like: int, scale: Scale | None) -> None:
        target = like if scale is None else self._model.add_integer(like, scale)
        self._operators.append(self._model.converted(source, target))
        self._made[like, scale] = target

    def _new(self, tensor: int, scale: Scale | None) -> int:
        self._made[tensor, scale] = tensor if scale is None else self._model.add_integer(tensor, scale)
        return self._made[tensor, scale]

    def _tensor(self, tensor: int, version: Version) -> int:
        if tensor < 0 or self._model.constant(tensor) is not None:
            return tensor
        if isinstance(version, Own):
            return self._made[tensor, self._own[tensor]]
        return self._made[tensor, None if isinstance(version, Float) else self._resolved(version)]

    def _made_or_constant(self, tensor: int, scale: Scale | None) -> int:
        return tensor if tensor < 0 or self._model.constant(tensor) is not None else self._made[tensor, scale]

    def _scales(self, tensor: int) -> list[Scale | None]:
        """The versions that are asked for; None is float."""
        scales: list[Scale | None] = []
        for version in self._placement.versions.get(tensor, []):
            scale = (
                None
                if isinstance(version, Float)
                else self._own[tensor]
                if isinstance(version, Own)
                else self._resolved(version)
            )
            if scale not in scales:
                scales.append(scale)
        return scales

    def _resolved(self, scale: Version) -> Scale:
        if isinstance(scale, Measured):
            return self._ranges[scale.tensor]
        assert isinstance(scale, Scale)
        return scale
