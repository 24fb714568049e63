"""The damage that each layer does to the network's output when its weights alone are quantized."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from detectors.protocol import Detector
from qat_job.distillation import output_divergence
from quantization.calibrate import calibrate_weight
from quantization.convert import in_float, quantized_layers
from quantization.layers import QuantizedLayer
from schemas.sensitivity import ErrorAtBits

METRIC = (
    "KL divergence of the head's outputs from the full-precision ones, per unit of foreground, with the weights of "
    "this layer alone quantized and everything else in float"
)


@torch.no_grad()
def scan_layers(
    student: Detector, batches: Sequence[Tensor], candidates: Sequence[int], advance: Callable[[], None]
) -> dict[str, tuple[ErrorAtBits, ...]]:
    """The error of every quantized layer at each of `candidates` weight bits, fewest first.

    All else stays in float: a divergence that small is quadratic in the perturbation, so that the errors of layers add
    up, and one layer's figure does not depend on what other layers are given. At W4 throughout, the output is
    so far off that one layer more or less is not seen.

    Args:
        student: its weight quantizers change; its weights do not.
        batches: images, `(B, 3, H, W)`.
        candidates: weight bits to try.
        advance: called after each measurement, layers × candidates times.
    """
    errors: dict[str, tuple[ErrorAtBits, ...]] = {}
    with in_float(student.network):
        expected = [student.head_outputs(images) for images in batches]
        images_seen = sum(len(images) for images in batches)
        for name, layer in quantized_layers(student.network).items():
            measured = []
            for bits in sorted(candidates):
                with quantized_weight(layer, bits):
                    divergences = [
                        output_divergence(student.head_outputs(images), outputs, temperature=1.0) * len(images)
                        for images, outputs in zip(batches, expected, strict=True)
                    ]
                error = max(float(torch.stack(divergences).sum()) / images_seen, 0.0)  # rounding can go below zero
                measured.append(ErrorAtBits(weight_bits=bits, error=error))
                advance()
            errors[name] = tuple(measured)
    return errors


@contextmanager
def quantized_weight(layer: QuantizedLayer, bits: int) -> Iterator[None]:
    """The layer computes in float, but with its weight rounded to `bits`, inside the block."""
    original = layer.weight.detach().clone()
    layer.set_weight_bits(bits)
    calibrate_weight(layer)
    layer.weight.copy_(layer.weight_quantizer(original))
    try:
        yield
    finally:
        layer.weight.copy_(original)
