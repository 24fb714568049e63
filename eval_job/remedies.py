"""What would help a student: other bits, tried on images without training anything."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from detectors.protocol import Detector
from quantization.calibrate import calibrate_weight
from quantization.convert import activations_in_float, mean_weight_bits, quantized_layers
from quantization.mixed_precision import mean_bits, plan_bits
from quantization.plan import fixed_weight_bits
from schemas.errors import ConfigError
from schemas.layer_study import Parts, Remedy
from schemas.sensitivity import SensitivityReport
from schemas.student import StudentManifest

Score = Callable[[Detector, str], float]
"""mAP50-95 of a detector; the text is shown with the progress."""
NEARLY_ALL = 0.995
"""A student that keeps this share needs no advice."""
MORE_BITS = 2
"""What all weights are given more, in one remedy."""
WORST = 5
"""Layers that are kept at 8 bits, in another."""


@dataclass(frozen=True)
class Try:
    """A remedy before it is tried: weight bits by layer, activations at 8 bits or more, and the settings for it."""

    kind: Literal["activations", "weights", "layers", "mixed"]
    bits: dict[str, int]
    activations_in_float: bool
    settings: tuple[str, ...]


def measure_parts(
    student: Detector,
    reference: Detector,
    manifest: StudentManifest,
    sensitivity: SensitivityReport | None,
    score: Score,
) -> Parts:
    """What weights and activations lose alone, and the remedies by what they give back.

    Args:
        student: the student.
        reference: full precision with layers that correspond to the student's.
        manifest: of the student.
        sensitivity: of its layers, where it was measured; without it no remedy is about single layers.
        score: measures a detector.
    """
    full, whole = score(reference, "advice: full precision"), score(student, "advice: student")
    with activations_in_float(student.network):
        weights = score(student, "advice: weights alone")
    plain = _with_weights_of(reference, student)
    layers = quantized_layers(plain.network)
    given = {name: layer.weight_quantizer.spec.bits for name, layer in layers.items()}
    with _weights_in_float(plain):
        activations = score(plain, "advice: activations alone")
    found = Parts(
        model="", images=1, full_precision=full, student=whole, weights_only=weights, activations_only=activations
    )
    if full <= 0 or whole / full >= NEARLY_ALL:
        return found
    _round(plain, given)
    base = score(plain, "advice: plainly rounded")
    lost = full - base
    remedies = []
    fixed = fixed_weight_bits(reference, manifest.bits)
    for each in _tries(given, fixed, manifest, sensitivity) if lost > 0 else ():
        _round(plain, each.bits)
        reached = _score_with(plain, each, score)
        remedies.append(
            Remedy(
                kind=each.kind,
                settings=each.settings,
                mean_weight_bits=mean_weight_bits(plain.network),
                map50_95=reached,
                recovered=(reached - base) / lost,
            )
        )
    remedies.sort(key=lambda each: -each.recovered)
    return found.model_copy(update={"plainly_rounded": base, "remedies": tuple(remedies)})


def _score_with(plain: Detector, each: Try, score: Score) -> float:
    label = f"advice: {each.settings[0]}"
    label = label if len(label) < 60 else f"{label[:57]}..."
    if not each.activations_in_float:
        return score(plain, label)
    with activations_in_float(plain.network):
        return score(plain, label)


def _tries(
    given: Mapping[str, int], fixed: Collection[str], manifest: StudentManifest, sensitivity: SensitivityReport | None
) -> Iterator[Try]:
    """Remedies for a student with `given` weight bits by layer, of which the policy has `fixed` some."""
    bits = manifest.bits
    free = given.keys() - fixed
    if bits.activation_bits < 8:
        yield Try("activations", dict(given), True, ("bits.activation_bits=8",))
    if not bits.layers and bits.weight_bits < 8:
        more = min(bits.weight_bits + MORE_BITS, 8)
        yield Try(
            "weights", {n: more if n in free else b for n, b in given.items()}, False, (f"bits.weight_bits={more}",)
        )
    if sensitivity is None:
        return
    errors = {layer.name: {each.weight_bits: each.error for each in layer.errors} for layer in sensitivity.layers}
    ranked = sorted(
        (name for name in free if name in errors and given[name] < 8),
        key=lambda name: -errors[name].get(given[name], max(errors[name].values())),
    )
    if worst := ranked[:WORST]:
        kept = {name: b for name, b in given.items() if name in free and (bits.layers or name in worst)}
        chosen = kept | dict.fromkeys(worst, 8)
        text = ", ".join(f"{name}: {b}" for name, b in chosen.items())
        yield Try("layers", {**given, **chosen}, False, (f"bits.layers={{{text}}}",))
    weights = {layer.name: layer.weights for layer in sensitivity.layers}
    mean = sum(weights[n] * b for n, b in given.items() if n in weights) / max(sum(weights.values()), 1)
    for budget in (round(mean, 2), min(round(mean + 1), 8.0)):
        if (plan := _plan(sensitivity, budget)) is not None:
            yield Try("mixed", {**given, **plan}, False, (f"sensitivity.budget={budget:g}",))


def _plan(sensitivity: SensitivityReport, budget: float) -> dict[str, int] | None:
    try:
        plan = plan_bits(sensitivity.layers, budget)
    except ConfigError:
        return None
    return plan if mean_bits(sensitivity.layers, plan) <= budget else None


@torch.no_grad()
def _with_weights_of(reference: Detector, student: Detector) -> Detector:
    """A copy of the student with the weights and biases of full precision under its quantizers."""
    copy = student.copy()
    for name, layer in quantized_layers(copy.network).items():
        theirs = reference.network.get_submodule(name)
        layer.weight.copy_(theirs.weight)  # type: ignore[arg-type]
        if layer.bias is not None:
            layer.bias.copy_(theirs.bias)  # type: ignore[arg-type]
    return copy


@torch.no_grad()
def _round(detector: Detector, bits: Mapping[str, int]) -> None:
    """Give each layer a weight quantizer of so many bits, with step sizes of least squared error."""
    for name, layer in quantized_layers(detector.network).items():
        layer.set_weight_bits(bits[name])
        calibrate_weight(layer)


@contextmanager
def _weights_in_float(detector: Detector) -> Iterator[None]:
    """Quantizers of weights off inside the block; activations are quantized as ever."""
    layers = list(quantized_layers(detector.network).values())
    kept = [layer.weight_quantizer for layer in layers]
    for layer in layers:
        layer.weight_quantizer = nn.Identity()  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer, quantizer in zip(layers, kept, strict=True):
            layer.weight_quantizer = quantizer
