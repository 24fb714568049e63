"""Which tensors are integers, and with which step sizes: worked out from the outputs of a network to its inputs.

A student quantizes what goes into its layers. Here every such tensor is *computed* with that layer's step size: an
operation whose result two layers quantize differently runs once for each, so that nothing is rounded twice. What the
student leaves in float and LiteRT wants as integers (convolution outputs, inputs of additions) gets a range from
calibration. Operations that feed no layer of the student (decoding), and those not listed here, stay in float.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from .layers import Layer
from .model import Model, Scale

MOVEMENTS = {
    "CONCATENATION",
    "MAX_POOL_2D",
    "PAD",
    "RESHAPE",
    "RESIZE_NEAREST_NEIGHBOR",
    "SLICE",
    "SPLIT",
    "STRIDED_SLICE",
    "TRANSPOSE",
}
"""Operations whose inputs and outputs have one scale: quantization commutes with them."""
ARITHMETIC = {"ADD", "MUL", "SUB"}
"""Operations whose inputs and outputs have a scale each."""
FIXED = {"LOGISTIC": Scale(1 / 256, -128)}
"""Operations whose output has a scale that LiteRT prescribes."""


class Kind(Enum):
    """How an operation computes."""

    FLOAT = auto()
    MOVEMENT = auto()
    ARITHMETIC = auto()
    FIXED = auto()
    LAYER = auto()
    FLOAT_LAYER = auto()


@dataclass(frozen=True)
class Measured:
    """A scale that calibration finds, of a tensor."""

    tensor: int


@dataclass(frozen=True)
class Own:
    """Whatever scale a tensor has anyway."""


@dataclass(frozen=True)
class Float:
    """No scale: the tensor in float."""


Version = Scale | Measured | Own | Float


@dataclass
class Placement:
    """What is computed, and how.

    Attributes:
        kinds: of each operator, by its place.
        versions: of each tensor that operators compute or the caller gives; in the order they were asked for.
        own: the scale a tensor has if its reader does not care; where it is missing, that of the operation's input.
    """

    kinds: list[Kind]
    versions: dict[int, list[Version]] = field(default_factory=dict)
    own: dict[int, Scale | Measured] = field(default_factory=dict)

    def ask(self, tensor: int, version: Version) -> None:
        """Want a version of a tensor."""
        wanted = self.versions.setdefault(tensor, [])
        if version not in wanted:
            wanted.append(version)

    def measured(self) -> list[int]:
        """Tensors to calibrate."""
        asked = [version for wanted in self.versions.values() for version in wanted]
        return sorted({each.tensor for each in [*asked, *self.own.values()] if isinstance(each, Measured)})


def place(model: Model, layers: Mapping[int, Layer]) -> Placement:
    """Work out a placement.

    A layer that only float operations read (the outputs of the head) computes in float, from its quantized input and
    weight, as the student does: INT8 outputs cost YOLO11n two points of mAP and save no time.

    Args:
        model: the float network.
        layers: the student's layer of each operator that computes one, by place.
    """
    inside = _feeding(model, layers)
    placement = Placement([Kind.FLOAT] * len(model.operators))
    for tensor in model.outputs:
        placement.ask(tensor, Float())
    for index in reversed(range(len(model.operators))):
        operator = model.operators[index]
        kind = _kind(model, operator, index in layers, index in inside)
        wanted = [version for tensor in operator.outputs for version in placement.versions.get(tensor, [])]
        only_float = all(version == Float() for version in wanted)
        if only_float and kind in (Kind.ARITHMETIC, Kind.FIXED):
            kind = Kind.FLOAT
        if only_float and kind is Kind.LAYER:
            kind = Kind.FLOAT_LAYER
        placement.kinds[index] = kind
        _settle(model, placement, index, layers.get(index))
    return placement


def _settle(model: Model, placement: Placement, index: int, layer: Layer | None) -> None:
    """Decide on the versions of an operator's outputs, and ask for those of its inputs."""
    operator, kind = model.operators[index], placement.kinds[index]
    computed = [int(tensor) for tensor in operator.inputs if tensor >= 0 and model.constant(tensor) is None]
    if kind is Kind.MOVEMENT:
        for version in _movement(model, placement, operator):
            for tensor in computed:
                placement.ask(tensor, version)
        return
    for tensor in operator.outputs:
        _choose_own(placement, int(tensor), FIXED.get(model.name(operator)) if kind is Kind.FIXED else None, kind)
    needed: Version = Float() if kind is Kind.FLOAT else Own() if layer is None else layer.input
    for tensor in computed:
        placement.ask(tensor, needed)


def _movement(model: Model, placement: Placement, operator: Any) -> list[Version]:
    """The versions that a movement is asked for, all outputs together; `Own` is resolved where that can be."""
    outputs = [int(tensor) for tensor in operator.outputs]
    wanted: list[Version] = []
    for tensor in outputs:
        wanted += [version for version in placement.versions.get(tensor, []) if version not in wanted]
    scale = _widest(wanted)
    if scale is None and model.name(operator) == "CONCATENATION":
        scale = Measured(outputs[0])
    for tensor in outputs:
        placement.versions[tensor] = list(wanted)
        if scale is not None:
            placement.own[tensor] = scale
    if scale is None or Own() not in wanted:
        return wanted
    return [version for version in wanted if version != Own()] + [scale] * (scale not in wanted)


def _choose_own(placement: Placement, tensor: int, fixed: Scale | None, kind: Kind) -> None:
    """The scale of a computed tensor, if any reader needs one."""
    wanted = placement.versions.get(tensor, [])
    scales = [version for version in wanted if isinstance(version, Scale | Measured)]
    if fixed is not None:
        placement.own[tensor] = fixed
    elif Own() in wanted or kind is Kind.LAYER:
        # A layer has one output: with one reader that has a scale it takes that, else what calibration says.
        alone = len(wanted) == 1 or kind is not Kind.LAYER
        chosen = _widest(scales) if alone else None
        placement.own[tensor] = Measured(tensor) if chosen is None else chosen
    elif Float() in wanted and kind is Kind.ARITHMETIC:
        placement.own[tensor] = _widest(scales) or Measured(tensor)


def _widest(versions: Sequence[Version]) -> Scale | Measured | None:
    """Of the scales that are asked for the one with the largest range; those of the student go first."""
    scales = [version for version in versions if isinstance(version, Scale)]
    if scales:
        return max(scales, key=lambda scale: scale.step)
    return next((version for version in versions if isinstance(version, Measured)), None)


def _kind(model: Model, operator: Any, is_layer: bool, inside: bool) -> Kind:
    name = model.name(operator)
    if is_layer:
        return Kind.LAYER
    if not inside:
        return Kind.FLOAT
    if name in MOVEMENTS:
        return Kind.MOVEMENT
    if name in FIXED:
        return Kind.FIXED
    if name in ARITHMETIC and all(model.constant(tensor) is None for tensor in operator.inputs):
        return Kind.ARITHMETIC
    return Kind.FLOAT


def _feeding(model: Model, layers: Mapping[int, Layer]) -> set[int]:
    """Places of the operators that a layer of the student depends on."""
    needed: set[int] = set()
    inside: set[int] = set()
    for index in reversed(range(len(model.operators))):
        operator = model.operators[index]
        if index in layers or needed.intersection(int(tensor) for tensor in operator.outputs):
            inside.add(index)
            needed.update(int(tensor) for tensor in operator.inputs)
    return inside
