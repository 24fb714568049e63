"""What a bit policy means for a given detector: which layer gets which quantizers."""

import difflib
from dataclasses import dataclass
from typing import Literal

from torch import nn

from detectors.matmul import MatMul
from detectors.protocol import Detector
from schemas.errors import ConfigError
from schemas.planned_bits import SAFE_BITS
from schemas.qat_config import BitPolicy, Policy, Quantizer

EDGE_BITS = 8
"""Bits of the first layer and the output convolutions under the deploy policy."""


@dataclass(frozen=True)
class QuantizerSpec:
    """One quantizer: bits, granularity and scheme.

    Attributes:
        reduced_range: where it has 8 bits, its integers take the values that `SAFE_BITS` hold.
    """

    bits: int
    granularity: Literal["per_tensor", "per_channel"]
    scheme: Literal["symmetric", "affine"]
    reduced_range: bool = False

    @property
    def affine(self) -> bool:
        """Whether it has a zero point; affine quantizers are unsigned, symmetric ones signed."""
        return self.scheme == "affine"

    @property
    def uses_fewer(self) -> bool:
        """Whether its integers take fewer values than its bits hold."""
        return self.reduced_range and self.bits > SAFE_BITS

    @property
    def range(self) -> tuple[int, int]:
        """Lowest and highest integer."""
        if self.affine:
            return 0, 2**self.bits - 1
        used = SAFE_BITS if self.uses_fewer else self.bits
        return -(2 ** (used - 1)), 2 ** (used - 1) - 1


@dataclass(frozen=True)
class LayerPlan:
    """Quantizers of one convolution or linear layer."""

    weight: QuantizerSpec
    input: QuantizerSpec


def plan_layers(detector: Detector, bits: BitPolicy) -> dict[str, LayerPlan]:
    """The plan of every layer that `bits` quantizes, by module name; layers not named stay in float.

    Raises:
        ConfigError: `bits.layers` names a layer that is not there, stays in float or has its bits from the policy.
    """
    layers = [name for name, module in detector.network.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    where = detector.layers
    in_float = set(where.in_float)
    edges = fixed_weight_bits(detector, bits)
    if bits.policy is Policy.PAPER:
        in_float |= {where.first, *where.head}

    _check_names(bits, layers, free=[name for name in layers if name not in in_float | edges.keys()])

    plan: dict[str, LayerPlan] = {}
    for name in layers:
        if name in in_float:
            continue
        weight_bits, activation_bits = (
            (edges[name], EDGE_BITS)
            if name in edges
            else (bits.layers.get(name, bits.weight_bits), bits.activation_bits)
        )
        granularity: Literal["per_tensor", "per_channel"] = (
            "per_channel" if bits.policy is Policy.DEPLOY else "per_tensor"
        )
        plan[name] = LayerPlan(
            weight=QuantizerSpec(weight_bits, granularity, "symmetric", bits.reduces_range),
            input=activation_spec(bits, activation_bits),
        )
    return plan


def plan_matmuls(detector: Detector, bits: BitPolicy) -> dict[str, QuantizerSpec]:
    """The quantizer of both inputs of every product of two activations, by module name."""
    names = [name for name, module in detector.network.named_modules() if isinstance(module, MatMul)]
    return dict.fromkeys(names, activation_spec(bits, bits.activation_bits))


def activation_spec(bits: BitPolicy, activation_bits: int) -> QuantizerSpec:
    """The quantizer of an activation under a policy."""
    affine = bits.activation_quantizer is Quantizer.LSQ_PLUS
    return QuantizerSpec(activation_bits, "per_tensor", "affine" if affine else "symmetric")


def fixed_weight_bits(detector: Detector, bits: BitPolicy) -> dict[str, int]:
    """Layers whose weight bits the policy fixes: under deploy the first one and the output convolutions."""
    if bits.policy is Policy.PAPER:
        return {}  # it leaves them in float
    layers = detector.layers
    return dict.fromkeys((layers.first, *layers.output), EDGE_BITS)


def _check_names(bits: BitPolicy, layers: list[str], free: list[str]) -> None:
    for name in bits.layers:
        if name in free:
            continue
        if name in layers:
            raise ConfigError(
                f"bits.layers: the {bits.policy.value} policy decides about {name!r} itself (first layer, outputs, "
                "decoding or head); remove it"
            )
        close = difflib.get_close_matches(name, free, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"its layers are named like {free[0]!r}"
        raise ConfigError(f"bits.layers: the detector has no layer {name!r}; {hint}")
