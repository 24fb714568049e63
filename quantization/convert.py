"""From a full-precision detector to a student with quantized layers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


def mean_weight_bits(network: nn.Module) -> float:
    """Mean bits of a student over the weights of all quantized layers, those at fixed bits included; no biases."""
    layers = quantized_layers(network).values()
    bits = sum(layer.weight.numel() * layer.weight_quantizer.spec.bits for layer in layers)
    return bits / sum(layer.weight.numel() for layer in layers)


@contextmanager
def in_float(network: nn.Module) -> Iterator[None]:
    """Quantizers off inside the block."""
    modules: list[QuantizedLayer | QuantizedMatMul] = [*quantized_layers(network).values()]
    modules += quantized_matmuls(network).values()
    for module in modules:
        module.enabled = False
    try:
        yield
    finally:
        for module in modules:
            module.enabled = True


def replace_activation_quantizers(
    network: nn.Module, stand_in: Callable[[FakeQuantizer], nn.Module]
) -> list[tuple[nn.Module, str, FakeQuantizer]]:
    """Put a module in the place of every activation quantizer, in place; gives each with where it was an attribute."""
    places: list[tuple[nn.Module, str]] = [(each, "input_quantizer") for each in quantized_layers(network).values()]
    for product in quantized_matmuls(network).values():
        places += [(product, "left_quantizer"), (product, "right_quantizer")]
    replaced = [(module, name, getattr(module, name)) for module, name in places]
    for module, name, quantizer in replaced:
        setattr(module, name, stand_in(quantizer))
    return replaced


@contextmanager
def activations_in_float(network: nn.Module) -> Iterator[None]:
    """Quantizers of activations off inside the block; weights are rounded as ever."""
    replaced = replace_activation_quantizers(network, lambda quantizer: nn.Identity())
    try:
        yield
    finally:
        for module, name, quantizer in replaced:
            setattr(module, name, quantizer)


def quantizer_records(network: nn.Module) -> tuple[QuantizerRecord, ...]:
    """One record per quantizer of a student."""
    quantizers: list[tuple[str, FakeQuantizer]] = []
    for name, layer in quantized_layers(network).items():
        quantizers += [(f"{name}.weight", layer.weight_quantizer), (f"{name}.input", layer.input_quantizer)]
    for name, product in quantized_matmuls(network).items():
        quantizers += [(f"{name}.left", product.left_quantizer), (f"{name}.right", product.right_quantizer)]
    return tuple(
        QuantizerRecord(
            name=name,
            bits=quantizer.spec.bits,
            granularity=quantizer.spec.granularity,
            scheme=quantizer.spec.scheme,
            signed=not quantizer.spec.affine,
        )
        for name, quantizer in quantizers
    )
