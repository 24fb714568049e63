"""Calibration's second part: layer by layer, weights are rounded and outputs corrected, towards the float network."""

from collections import Counter

import torch
from torch import Tensor, nn

from detectors.hooks import hooked
from detectors.protocol import Detector
from quantization.convert import in_float, quantized_layers
from quantization.correction import Correction
from quantization.layers import QuantizedLayer
from quantization.positions import of_outputs
from quantization.rounding import round_weights

Handle = torch.utils.hooks.RemovableHandle


@torch.no_grad()
def fit_to_float(student: Detector, images: Tensor, *, compensate: bool) -> None:
    """Bring every layer of a calibrated student close to the float layer, in the order of execution.

    All layers take their turn within one forward pass, so that each sees the inputs that those before it, already done,
    will give: its weights are rounded for them, then its output is corrected. A layer that runs several times in a pass
    stays as it is; one without bias is not corrected.

    Args:
        student: calibrated; its weights, biases and step sizes of weights change.
        images: `(B, 3, H, W)`, of the calibration set.
        compensate: whether weights are rounded against each other, see `quantization.rounding`.
    """
    layers = quantized_layers(student.network)
    wanted: dict[str, Tensor] = {}
    runs: Counter[str] = Counter()

    def record(name: str, layer: QuantizedLayer) -> Handle:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            runs[name] += 1
            wanted[name] = of_outputs(layer, output)

        return layer.register_forward_hook(hook)

    def round_for(name: str, layer: QuantizedLayer) -> Handle:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if compensate and runs[name] == 1:
                round_weights(layer, inputs[0], wanted[name])

        return layer.register_forward_pre_hook(hook)

    def correct(name: str, layer: QuantizedLayer) -> Handle:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
            if runs[name] != 1 or layer.bias is None:
                return None
            correction = Correction.between(wanted.pop(name), of_outputs(layer, output))
            if layer.weight_quantizer.spec.granularity != "per_channel":
                correction = correction.without_scale()
            correction.apply_to(layer)
            return correction.of_output(layer, output)

        return layer.register_forward_hook(hook)

    with in_float(student.network), hooked(record(*each) for each in layers.items()):
        outputs = student.head_outputs(images)
    with hooked(make(*each) for make in (round_for, correct) for each in layers.items()):
        student.head_outputs(images, like=outputs)
