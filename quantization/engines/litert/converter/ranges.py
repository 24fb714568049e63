"""Scales of tensors that a student leaves in float, from what the float network computes on the calibration images."""

from collections.abc import Callable, Mapping

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from .model import Model, Scale

BINS = 2048
"""Histogram bins per tensor."""
SHRINKS = np.linspace(0.2, 1.0, 33)
"""Candidate ranges, as shares of the observed one; for either end."""
LEVELS = 255
Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def silu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sigmoid linear unit, x · sigmoid(x)."""
    values: NDArray[np.float64] = x / (1 + np.exp(-x.clip(-60)))
    return values


def identity(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values themselves."""
    return x


def calibrate(
    content: bytes, images: NDArray[np.float32], curves: Mapping[int, Curve], threads: int
) -> dict[int, Scale]:
    """The scale of least squared error of each tensor, after the curve that is applied to it next.

    Args:
        content: of the float model.
        images: `(N, ...)`, each an input of the model without its first dimension.
        curves: by tensor.
        threads: to compute with.
    """
    model = Model(content)
    model.outputs = list(dict.fromkeys([*model.outputs, *curves]))
    order = model.outputs
    interpreter = Interpreter(model_content=model.write(), num_threads=threads)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    outputs = [details["index"] for details in interpreter.get_output_details()]
    places = {tensor: outputs[order.index(tensor)] for tensor in curves}

    def passes(see: Callable[[int, NDArray[np.float32]], None]) -> None:
        for image in images:
            interpreter.set_tensor(source, image[None])
            interpreter.invoke()
            for tensor, place in places.items():
                see(tensor, interpreter.get_tensor(place))

    ends: dict[int, tuple[float, float]] = dict.fromkeys(curves, (0.0, 0.0))

    def widen(tensor: int, values: NDArray[np.float32]) -> None:
        low, high = ends[tensor]
        ends[tensor] = min(low, float(values.min())), max(high, float(values.max()), low + 1e-6)

    counts = {tensor: np.zeros(BINS) for tensor in curves}

    def count(tensor: int, values: NDArray[np.float32]) -> None:
        low, high = ends[tensor]
        bins = ((values - low) * (BINS / (high - low))).astype(np.int32).clip(0, BINS - 1)
        counts[tensor] += np.bincount(bins.ravel(), minlength=BINS)

    passes(widen)
    passes(count)
    return {tensor: best_scale(counts[tensor], *ends[tensor], curve) for tensor, curve in curves.items()}


def best_scale(counts: NDArray[np.float64], low: float, high: float, curve: Curve) -> Scale:
    """The scale of least squared error for a histogram between `low` ≤ 0 and `high` > 0."""
    edges = np.linspace(low, high, len(counts) + 1)
    seen = counts > 0
    values, weights = ((edges[:-1] + edges[1:]) / 2)[seen], counts[seen]
    wanted = curve(values)
    best, smallest = Scale((high - low) / LEVELS, 0), np.inf
    for upper in (SHRINKS * high).tolist():
        for bottom in (SHRINKS * low).tolist() if low < 0 else [0.0]:
            step = (upper - bottom) / LEVELS
            zero = round(-bottom / step)
            rounded = (np.rint(values / step).clip(-zero, LEVELS - zero)) * step
            error = float(weights @ (curve(rounded) - wanted) ** 2)
            if error < smallest:
                best, smallest = Scale(float(np.float32(step)), zero - 128), error
    return best
