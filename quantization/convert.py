"""From a full-precision detector to a student with quantized layers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import nn

from detectors.protocol import Detector
from quantization.fake_quantize import FakeQuantizer
from quantization.layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear, QuantizedMatMul
from quantization.plan import plan_layers, plan_matmuls
from schemas.qat_config import BitPolicy, Policy
from schemas.student import QuantizerRecord


def make_student(teacher: Detector, bits: BitPolicy) -> Detector:
    """A copy of the teacher whose layers carry quantizers, step sizes not initialised yet."""
    student = teacher.copy()
    if bits.policy is Policy.DEPLOY:
        student.fold_batch_norm()
    for name, plan in plan_layers(student, bits).items():
        layer = student.network.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.Linear)  # the plan names no others
        quantized = QuantizedConv2d(layer, plan) if isinstance(layer, nn.Conv2d) else QuantizedLinear(layer, plan)
        _replace(student.network, name, quantized)
    for name, spec in plan_matmuls(student, bits).items():
        _replace(student.network, name, QuantizedMatMul(spec))
    device = next(teacher.network.parameters()).device
    student.network.to(device).eval()
    return student


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, module)


def quantized_matmuls(network: nn.Module) -> dict[str, QuantizedMatMul]:
    """Quantized products of activations by module name, in the order of definition."""
    return {name: module for name, module in network.named_modules() if isinstance(module, QuantizedMatMul)}


def quantized_layers(network: nn.Module) -> dict[str, QuantizedLayer]:
    """Quantized layers by module name, in the order of definition."""
    return {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLayer)}


@dataclass(frozen=True)
class Place:
    """Where a quantizer of a student sits.

    Attributes:
        module: the layer or the product of activations.
        role: weight or input of a layer, left or right side of a product.
    """

    module: QuantizedLayer | QuantizedMatMul
    role: Literal["weight", "input", "left", "right"]

    @property
    def attribute(self) -> str:
        """Name of the module's attribute."""
        return f"{self.role}_quantizer"

    @property
    def quantizer(self) -> FakeQuantizer:
        """What sits there."""
        found: FakeQuantizer = getattr(self.module, self.attribute)
        return found

    @property
    def argument(self) -> int:
        """Which of the module's inputs an activation's quantizer takes, from 0."""
        return int(self.role == "right")


def quantizers(network: nn.Module) -> dict[str, Place]:
    """The place of every quantizer of a student by its name, `<module>.<role>`: those of layers, then of products."""
    places = {
        f"{name}.{role}": Place(layer, role)
        for name, layer in quantized_layers(network).items()
        for role in ("weight", "input")
    }
    return places | {
        f"{name}.{role}": Place(product, role)
        for name, product in quantized_matmuls(network).items()
        for role in ("left", "right")
    }


def activation_quantizers(network: nn.Module) -> list[Place]:
    """The places of quantizers whose input is an activation."""
    return [place for place in quantizers(network).values() if place.role != "weight"]


def mean_weight_bits(network: nn.Module) -> float:
    """Mean bits of a student over the weights of all quantized layers, those at fixed bits included; no biases."""
    layers = quantized_layers(network).values()
    bits = sum(layer.weight.numel() * layer.weight_quantizer.spec.bits for layer in layers)
    return bits / sum(layer.weight.numel() for layer in layers)


@contextmanager
def in_float(network: nn.Module) -> Iterator[None]:
    """Quantizers off inside the block."""
    modules = [place.module for place in quantizers(network).values()]
    for module in modules:
        module.enabled = False
    try:
        yield
    finally:
        for module in modules:
            module.enabled = True


def replace_activation_quantizers(
    network: nn.Module, stand_in: Callable[[FakeQuantizer], nn.Module]
) -> list[tuple[Place, FakeQuantizer]]:
    """Put a module in the place of every activation quantizer, in place; gives each with where it was."""
    replaced = [(place, place.quantizer) for place in activation_quantizers(network)]
    for place, quantizer in replaced:
        setattr(place.module, place.attribute, stand_in(quantizer))
    return replaced


@contextmanager
def activations_in_float(network: nn.Module) -> Iterator[None]:
    """Quantizers of activations off inside the block; weights are rounded as ever."""
    replaced = replace_activation_quantizers(network, lambda quantizer: nn.Identity())
    try:
        yield
    finally:
        for place, quantizer in replaced:
            setattr(place.module, place.attribute, quantizer)


def quantizer_records(network: nn.Module) -> tuple[QuantizerRecord, ...]:
    """One record per quantizer of a student."""
    specs = {name: place.quantizer.spec for name, place in quantizers(network).items()}
    return tuple(
        QuantizerRecord(
            name=name,
            bits=spec.bits,
            granularity=spec.granularity,
            scheme=spec.scheme,
            signed=not spec.affine,
            reduced_range=spec.uses_fewer,
        )
        for name, spec in specs.items()
    )
