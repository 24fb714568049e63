"""Where layers are looked at while they are fitted: the same positions of each image, thinned out evenly."""

from collections.abc import Iterator

from torch import Tensor

from quantization.layers import QuantizedConv2d, QuantizedLayer

PER_IMAGE = 256
"""So many positions of an image, or up to twice as many; all of them where there are fewer."""


def of_outputs(layer: QuantizedLayer, output: Tensor) -> Tensor:
    """A layer's output there, `(positions, channels)`, image by image."""
    if isinstance(layer, QuantizedConv2d):
        output = output.permute(0, 2, 3, 1)
    rows = output.reshape(len(output), -1, output.shape[-1])
    return rows[:, :: _every(rows.shape[1])].flatten(0, 1).clone()


def of_inputs(layer: QuantizedLayer, x: Tensor) -> Iterator[Tensor]:
    """What outputs there are weighted sums of, `(groups, inputs, positions)` of each image in turn."""
    for image in x[:, None]:
        columns = layer.columns(image)
        yield columns[:, :, :: _every(columns.shape[2])]


def _every(positions: int) -> int:
    return max(1, positions // PER_IMAGE)
