"""The damage that each layer does to the network's output when its weights alone are quantized: to second order.

A small change Δw of weights moves the outputs by J Δw, and their divergence from the full-precision ones is
½ (J Δw)ᵀ H (J Δw), where H is the Hessian of the divergence at the full-precision outputs. For random vectors v whose
second moment E[v vᵀ] is H, that is ½ E[(vᵀJ Δw)²], and vᵀJ is one backward pass, for all layers and widths at once: the
Gauss-Newton form of what HAWQ measures (arXiv 1911.03852), with Hutchinson's probes. The rounding errors of different
output channels are taken to be independent, so that their terms are squared one by one, which takes far fewer probes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from detectors.protocol import Detector, HeadOutputs
from quantization.calibrate import calibrate_weight
from quantization.convert import in_float, quantized_layers
from quantization.layers import QuantizedLayer
from schemas.sensitivity import ErrorAtBits

BOX_WEIGHT = 10.0
"""Of box terms, which weigh 1 in training: at 1 the box branch ranks too low for the mAP it costs."""
PROBES = 2
"""Random vectors an image."""
METRIC = (
    f"KL divergence of the head's outputs from the full-precision ones, box terms times {BOX_WEIGHT:g}, per unit of "
    "foreground, with the weights of this layer alone quantized and everything else in float, to second order"
)


def layer_errors(
    student: Detector, images: Iterable[Tensor], widths: Sequence[int], advance: Callable[[], None]
) -> dict[str, tuple[ErrorAtBits, ...]]:
    """The error of every quantized layer at each of `widths` weight bits, fewest first; a mean over images.

    All else stays in float: a divergence that small is quadratic in the perturbation, so that the errors of layers add
    up, and one layer's figure does not depend on what other layers are given.

    Args:
        student: its weight quantizers change; its weights do not.
        images: `(1, 3, H, W)` each, one at least.
        widths: weight bits to try.
        advance: called after each image.
    """
    layers = quantized_layers(student.network)
    changes = {name: {bits: rounding_error(layer, bits) for bits in sorted(widths)} for name, layer in layers.items()}
    totals = {name: dict.fromkeys(by_bits, 0.0) for name, by_bits in changes.items()}
    generator = torch.Generator().manual_seed(0)
    probes = 0
    with in_float(student.network), learning(layers.values()):
        for image in images:
            for gradients in probed(student, image, layers, generator):
                probes += 1
                for name, gradient in gradients.items():
                    for bits, change in changes[name].items():
                        moved = (gradient * change).flatten(1).sum(dim=1)  # by the rounding of each output channel
                        totals[name][bits] += float(moved.square().sum()) / 2
            advance()
    return {
        name: tuple(ErrorAtBits(weight_bits=bits, error=total / probes) for bits, total in by_bits.items())
        for name, by_bits in totals.items()
    }


@contextmanager
def learning(layers: Iterable[QuantizedLayer]) -> Iterator[None]:
    """Weights take gradients inside the block."""
    asleep = [layer.weight for layer in layers if not layer.weight.requires_grad]
    for weight in asleep:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in asleep:
            weight.requires_grad_(False)


@torch.no_grad()
def rounding_error(layer: QuantizedLayer, bits: int) -> Tensor:
    """What rounding to `bits` adds to the weights of a layer; its weight quantizer is left at these bits."""
    layer.set_weight_bits(bits)
    calibrate_weight(layer)
    error: Tensor = layer.weight_quantizer(layer.weight) - layer.weight
    return error


def probed(
    student: Detector, image: Tensor, layers: Mapping[str, QuantizedLayer], generator: torch.Generator
) -> Iterator[dict[str, Tensor]]:
    """For each of `PROBES` vectors v the gradients vᵀJ to the weights of the layers that the outputs depend on."""
    outputs = student.head_outputs(image)
    weights = [layer.weight for layer in layers.values()]
    for probe in range(PROBES):
        found = torch.autograd.grad(
            compared(outputs),
            weights,
            probe_of(outputs, generator),
            retain_graph=probe + 1 < PROBES,
            allow_unused=True,
        )
        yield {name: each for name, each in zip(layers, found, strict=True) if each is not None}


def compared(outputs: HeadOutputs) -> list[Tensor]:
    """All that `output_divergence` compares of outputs, in the order of `probe_of`."""
    binary, plain = ([each.logits for each in outputs.binary], [each.values for each in outputs.plain])
    return [*outputs.class_logits, *outputs.box_logits, *binary, *plain]


@torch.no_grad()
def probe_of(outputs: HeadOutputs, generator: torch.Generator) -> list[Tensor]:
    """A vector v over all `compared` outputs with E[v vᵀ] = the Hessian of `output_divergence` at `outputs`.

    A plain number, whose difference counts absolutely, is taken as if half its square counted.
    """
    classes, boxes = [], []
    kinds = outputs.categorical or (False,) * len(outputs.class_logits)
    for class_logits, box_logits, categorical in zip(outputs.class_logits, outputs.box_logits, kinds, strict=True):
        scores = class_logits.softmax(dim=1)[:, 1:] if categorical else class_logits.sigmoid()
        confidence = scores.amax(dim=1)  # (B, A)
        mass = confidence.sum(dim=1).clamp(min=1.0)[:, None]  # (B, 1)
        of_classes = categorical_probe(class_logits, 1, generator) if categorical else binary_probe(scores, generator)
        classes.append(of_classes / mass.sqrt()[:, None])
        plain = box_logits.shape[2] == 1
        of_boxes = signs(box_logits, generator) if plain else categorical_probe(box_logits, 2, generator)
        boxes.append(of_boxes * box_scale(confidence, box_logits.shape[1])[:, None])
    binary = [
        binary_probe(each.logits.sigmoid(), generator) * box_scale(each.weights, each.logits.shape[1])
        for each in outputs.binary
    ]
    numbers = [signs(each.values, generator) * box_scale(each.weights, each.values.shape[1]) for each in outputs.plain]
    return [*classes, *boxes, *binary, *numbers]


def box_scale(weights: Tensor, count: int) -> Tensor:
    """The root of what each of `count` numbers of a place counts, `(B, 1, K)`, of the weights of places, `(B, K)`."""
    mass = weights.sum(dim=1).clamp(min=1.0)[:, None]
    return (BOX_WEIGHT / count * weights / mass).sqrt()[:, None]


def binary_probe(probability: Tensor, generator: torch.Generator) -> Tensor:
    """Second moment p (1 − p), elementwise."""
    return (probability * (1 - probability)).sqrt() * signs(probability, generator)


def categorical_probe(logits: Tensor, dim: int, generator: torch.Generator) -> Tensor:
    """Second moment diag(p) − p pᵀ over `dim`."""
    probability = logits.softmax(dim=dim)
    root = probability.sqrt()
    drawn = root * signs(root, generator)
    return drawn - probability * drawn.sum(dim=dim, keepdim=True)


def signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Random signs, drawn on the CPU, so that every device draws the same."""
    drawn = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8)
    return (drawn * 2 - 1).to(like)
