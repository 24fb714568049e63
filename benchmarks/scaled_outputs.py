"""Processor time of a convolution whose step sizes learn: by scaled weights, and by scaled outputs as training does it.

    uv run python -m benchmarks.scaled_outputs

Layers are of the shapes that YOLO11n has at 320 px. Both ways are timed in turns, forward and backward; medians.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from quantization.calibrate import weight_step_sizes
from quantization.fixed_rounding import FixedRounding
from quantization.layers import QuantizedConv2d
from quantization.plan import LayerPlan, QuantizerSpec

PLAN = LayerPlan(QuantizerSpec(4, "per_channel", "symmetric"), QuantizerSpec(8, "per_tensor", "affine"))
SHAPES = (
    (16, 32, 3, 160, 2, 1),
    (32, 32, 1, 80, 1, 1),
    (16, 8, 3, 80, 1, 1),
    (64, 64, 3, 40, 1, 1),
    (80, 80, 3, 40, 1, 80),
    (80, 80, 1, 40, 1, 1),
    (128, 128, 3, 20, 1, 1),
    (256, 128, 1, 20, 1, 1),
)
"""Channels in and out, kernel, side of the input, stride, groups."""


def main(
    batch: Annotated[int, typer.Option(help="images")] = 8,
    turns: Annotated[int, typer.Option(help="timed passes of each way")] = 15,
    threads: Annotated[int, typer.Option(help="threads of PyTorch")] = 2,
) -> None:
    """Print a table."""
    torch.set_num_threads(threads)
    print("| layer | weights scaled, ms | outputs scaled, ms | ratio |\n| --- | --- | --- | --- |")
    for inputs, outputs, kernel, side, stride, groups in SHAPES:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
        layer = QuantizedConv2d(convolution, PLAN)
        layer.weight_quantizer.initialise(weight_step_sizes(layer.weight.detach(), PLAN.weight))
        layer.fix_rounding()
        layer.weight.requires_grad_(False)
        images = torch.randn(batch, inputs, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()
        spent: list[list[float]] = [[], []]
        for _ in range(turns):
            for seconds, way in zip(spent, (scaled_weights, scaled_outputs), strict=True):
                seconds.append(processor_seconds(partial(way, layer, images)))
        weights, scaled = (1000 * statistics.median(seconds) for seconds in spent)
        name = f"{inputs} to {outputs}, {kernel} x {kernel}, {side} px, stride {stride}, groups {groups}"
        print(f"| {name} | {weights:.1f} | {scaled:.1f} | {scaled / weights:.2f} |", flush=True)


def scaled_weights(layer: QuantizedConv2d, x: Tensor) -> Tensor:
    """By a weight of step sizes times integers, whose gradient is computed first."""
    return layer.compute(x, layer.weight_quantizer(layer.weight), layer.bias)


def scaled_outputs(layer: QuantizedConv2d, x: Tensor) -> Tensor:
    """As `QuantizedLayer` computes it with fixed rounding."""
    fixed = layer.weight_quantizer
    assert isinstance(fixed, FixedRounding)  # `main` fixed it
    return layer.scaled(layer.compute(x, fixed.integers, None), fixed.scales)


def processor_seconds(forward: Callable[[], Tensor]) -> float:
    """Of a pass there and back, all threads together."""
    upstream = torch.randn_like(forward().detach())  # in the memory layout that the next layer gives
    start = time.process_time()
    forward().backward(upstream)
    return time.process_time() - start


if __name__ == "__main__":
    typer.run(main)
