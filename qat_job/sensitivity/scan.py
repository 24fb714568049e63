"""The damage that each layer does to the network's output when its weights alone are quantized."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from detectors.hooks import hooked
from detectors.protocol import Detector
from qat_job.distillation import output_divergence
from quantization.calibrate import calibrate_weight
from quantization.convert import in_float, quantized_layers
from quantization.layers import QuantizedLayer
from schemas.sensitivity import ErrorAtBits

BOX_WEIGHT = 10.0
"""Of box terms, which weigh 1 in training: at 1 the box branch ranks too low for the mAP it costs."""
METRIC = (
    f"KL divergence of the head's outputs from the full-precision ones, box terms times {BOX_WEIGHT:g}, per unit of "
    "foreground, with the weights of this layer alone quantized and everything else in float"
)


@torch.no_grad()
def scan_layers(
    student: Detector, batches: Sequence[Tensor], candidates: Sequence[int], advance: Callable[[], None]
) -> dict[str, tuple[ErrorAtBits, ...]]:
    """The error of every quantized layer at each of `candidates` weight bits, fewest first; a mean over images.

    All else stays in float: a divergence that small is quadratic in the perturbation, so that the errors of layers add
    up, and one layer's figure does not depend on what other layers are given. With all other weights at 4 bits the
    output is so far off that one layer more or less is not seen.

    Args:
        student: its weight quantizers change; its weights do not.
        batches: images, `(B, 3, H, W)`.
        candidates: weight bits to try.
        advance: called after each measurement: batches × layers × candidates times.
    """
    layers = quantized_layers(student.network)
    errors = {name: dict.fromkeys(sorted(candidates), 0.0) for name in layers}
    images_seen = sum(len(images) for images in batches)
    with in_float(student.network):
        for images in batches:
            with recorded_outputs(layers) as outputs:
                expected = student.head_outputs(images)
            with ExitStack() as computed:
                for name in outputs:  # in the order of the forward pass
                    for bits in errors[name]:
                        with quantized_weight(layers[name], bits):
                            divergence = output_divergence(
                                student.head_outputs(images, like=expected),
                                expected,
                                temperature=1.0,
                                box_weight=BOX_WEIGHT,
                            )
                        errors[name][bits] += max(float(divergence), 0.0) * len(images) / images_seen
                        advance()
                    if len(outputs[name]) == 1:
                        computed.enter_context(replayed(layers[name], *outputs[name]))
    return {
        name: tuple(ErrorAtBits(weight_bits=bits, error=error) for bits, error in by_bits.items())
        for name, by_bits in errors.items()
    }


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


@contextmanager
def recorded_outputs(layers: Mapping[str, QuantizedLayer]) -> Iterator[dict[str, list[Tensor]]]:
    """What each layer gives out inside the block, one entry a call, in the order of their first calls."""
    outputs: dict[str, list[Tensor]] = {}
    handles = [
        # A copy: activation functions often work in place.
        layer.register_forward_hook(
            lambda _module, _inputs, output, name=name: outputs.setdefault(name, []).append(output.clone())
        )
        for name, layer in layers.items()
    ]
    with hooked(handles):
        yield outputs


@contextmanager
def replayed(layer: QuantizedLayer, output: Tensor) -> Iterator[None]:
    """Instead of computing, the layer gives out what it gave before; for layers that come before all that changes."""
    layer.forward = lambda x: output.clone()  # type: ignore[method-assign]
    try:
        yield
    finally:
        del layer.forward
