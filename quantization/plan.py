"""What a bit policy means for a given detector: which layer gets which quantizers."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from detectors.protocol import Detector
from schemas.qat_config import BitPolicy, Policy, Quantizer

EDGE_BITS = 8
"""Bits of the first layer and the output convolutions under the deploy policy."""


@dataclass(frozen=True)
class QuantizerSpec:
    """One quantizer: bits, granularity and scheme."""

    bits: int
    granularity: Literal["per_tensor", "per_channel"]
    scheme: Literal["symmetric", "affine"]

    @property
    def affine(self) -> bool:
        """Whether it has a zero point; affine quantizers are unsigned, symmetric ones signed."""
        return self.scheme == "affine"

    @property
    def range(self) -> tuple[int, int]:
        """Lowest and highest integer."""
        if self.affine:
            return 0, 2**self.bits - 1
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1


@dataclass(frozen=True)
class LayerPlan:
    """Quantizers of one convolution or linear layer."""

    weight: QuantizerSpec
    input: QuantizerSpec


def plan_layers(detector: Detector, bits: BitPolicy) -> dict[str, LayerPlan]:
    """The plan of every layer that `bits` quantizes, by module name; layers not named stay in float."""
    layers = [name for name, module in detector.network.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    scheme: Literal["symmetric", "affine"] = (
        "affine" if bits.activation_quantizer is Quantizer.LSQ_PLUS else "symmetric"
    )
    in_float = set(detector.float_layers())
    edges = {detector.first_layer(), *detector.output_layers()}
    if bits.policy is Policy.PAPER:
        in_float |= {detector.first_layer(), *detector.head_layers()}

    plan: dict[str, LayerPlan] = {}
    for name in layers:
        if name in in_float:
            continue
        weight_bits, activation_bits = (
            (EDGE_BITS, EDGE_BITS) if name in edges else (bits.weight_bits, bits.activation_bits)
        )
        granularity: Literal["per_tensor", "per_channel"] = (
            "per_channel" if bits.policy is Policy.DEPLOY else "per_tensor"
        )
        plan[name] = LayerPlan(
            weight=QuantizerSpec(weight_bits, granularity, "symmetric"),
            input=QuantizerSpec(activation_bits, "per_tensor", scheme),
        )
    return plan
