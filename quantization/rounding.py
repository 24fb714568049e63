"""Rounding weights so that their errors cancel in what the layer gives, instead of each to the nearest step.

GPTQ (arXiv 2210.17323): weights are rounded one input at a time, and what rounding changed is made up for by the
weights that are still to come, as the layer's inputs correlate. Before that, weights are fitted to the outputs of the
float layer, whose inputs were others (after GPTAQ, arXiv 2504.02692). Nothing is trained.
"""

import torch
from torch import Tensor

from quantization.layers import QuantizedLayer
from quantization.positions import of_inputs

DAMPING = 0.01
"""Added to the diagonal of the Gram matrix, as a share of its mean (the paper's)."""
RIDGE = 1.0
"""How strongly fitted weights are held to those of the float layer, as a share of the inputs' mean energy."""
MOST_INPUTS = 4608
"""Weights of layers with more inputs per output are rounded to the nearest: the matrix grows with their square."""
FINE_BITS = 8
"""From here on rounding to the nearest loses nothing that could be won back, where integers take all their values."""


@torch.no_grad()
def round_weights(layer: QuantizedLayer, x: Tensor, wanted: Tensor) -> None:
    """Put a layer's weights onto their grid, `step_size` times integers, for the inputs that it is about to see.

    Args:
        layer: with initialised step sizes, which stay as they are.
        x: its input, before quantization.
        wanted: what the float layer gives for the same images, as `quantization.positions.of_outputs`.
    """
    spec = layer.weight_quantizer.spec
    if (spec.bits >= FINE_BITS and not spec.uses_fewer) or layer.weight[0].numel() > MOST_INPUTS:
        return
    sums = wanted if layer.bias is None else wanted - layer.bias
    gram, cross = input_products(layer, layer.input_quantizer(x), sums)
    groups, inputs = gram.shape[:2]
    weight = fitted(layer.weight.reshape(groups, -1, inputs), gram, cross)
    step_size = layer.weight_quantizer.step_size.expand(layer.weight.shape[0]).reshape(groups, -1)
    layer.weight.copy_(compensated(weight, gram, step_size, *spec.range).reshape(layer.weight.shape))


def input_products(layer: QuantizedLayer, x: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Σ v vᵀ over what outputs are weighted sums of, `(groups, inputs, inputs)`, and Σ y vᵀ, `(groups, outputs, ·)`.

    Args:
        layer: whose inputs they are.
        x: what it sees.
        sums: that it is to give, y, `(positions, channels)`.
    """
    gram, cross, start = torch.zeros((), device=x.device), torch.zeros((), device=x.device), 0
    for columns in of_inputs(layer, x):
        rows = sums[start : start + columns.shape[2]]
        gram = gram + columns @ columns.transpose(1, 2)
        cross = cross + rows.T.reshape(len(columns), -1, len(rows)) @ columns.transpose(1, 2)
        start += len(rows)
    return gram, cross


def fitted(weight: Tensor, gram: Tensor, cross: Tensor) -> Tensor:
    """Weights that give what is wanted of the inputs that the layer sees, which are not those of the float layer.

    Errors of the layers before it are made up for as far as they can be, by ridge regression: little
    ‖Y − W V‖² + `RIDGE` · mean |V|² · ‖W − `weight`‖².

    Args:
        weight: of the float layer, `(groups, outputs, inputs)`.
        gram: V Vᵀ of the inputs.
        cross: Y Vᵀ of the wanted outputs and the inputs.
    """
    ridge = (RIDGE * gram.diagonal(dim1=1, dim2=2).mean(dim=1)).clamp(min=1e-8)[:, None, None]
    factor = torch.linalg.cholesky((gram + ridge * torch.eye(gram.shape[1], device=gram.device)).double())
    return torch.cholesky_solve((cross + ridge * weight).double().transpose(1, 2), factor).transpose(1, 2).to(weight)


def compensated(weight: Tensor, gram: Tensor, step_size: Tensor, lowest: int, highest: int) -> Tensor:
    """Weights on their grid with little ‖(W − Ŵ) V‖, columns of the largest inputs first.

    Args:
        weight: `(groups, outputs, inputs)`.
        gram: V Vᵀ of the inputs, `(groups, inputs, inputs)`.
        step_size: of each output, `(groups, outputs)`.
        lowest: integer of the grid.
        highest: integer of the grid.
    """
    energy = gram.diagonal(dim1=1, dim2=2)
    order = energy.argsort(dim=1, descending=True)
    gram = gram + torch.diag_embed((DAMPING * energy.mean(dim=1, keepdim=True)).clamp(min=1e-8).expand_as(energy))
    gram = gram.gather(1, order[:, :, None].expand_as(gram)).gather(2, order[:, None].expand_as(gram))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram.double()))
    factor = torch.linalg.cholesky(inverse, upper=True).to(weight.dtype)
    pending = weight.gather(2, order[:, None].expand_as(weight))
    rounded = torch.empty_like(pending)
    for column in range(pending.shape[2]):
        wanted = pending[:, :, column]
        rounded[:, :, column] = (wanted / step_size).round().clamp(lowest, highest) * step_size
        error = (wanted - rounded[:, :, column]) / factor[:, column, column, None]
        pending[:, :, column + 1 :] -= error[:, :, None] * factor[:, None, column, column + 1 :]
    return torch.empty_like(rounded).scatter_(2, order[:, None].expand_as(rounded), rounded)
