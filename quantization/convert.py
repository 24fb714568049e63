"""From a full-precision detector to a student with quantized layers."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from detectors.protocol import Detector
from quantization.layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear
from quantization.plan import plan_layers
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
        parent, _, attribute = name.rpartition(".")
        setattr(student.network.get_submodule(parent), attribute, quantized)
    device = next(teacher.network.parameters()).device
    student.network.to(device).eval()
    return student


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
    layers = quantized_layers(network).values()
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.enabled = True


def quantizer_records(network: nn.Module) -> tuple[QuantizerRecord, ...]:
    """One record per quantizer of a student."""
    return tuple(
        QuantizerRecord(
            name=f"{name}.{role}",
            bits=spec.bits,
            granularity=spec.granularity,
            scheme=spec.scheme,
            signed=not spec.affine,
        )
        for name, layer in quantized_layers(network).items()
        for role, spec in (("weight", layer.weight_quantizer.spec), ("input", layer.input_quantizer.spec))
    )
