"""The network of an inversion as one CUDA graph for each way through it, made from the product's own objects.

Labels and losses stay outside: how many objects there are decides what a family's loss computes, and a graph replays
one fixed sequence. What the hooks of the statistics measure inside the network is handed out and put back afterwards.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from synth_job.inversion import Inversion

Flat = Callable[[Tensor], tuple[Tensor, ...]]
Capture = Callable[[Flat, Tensor], Flat]
"""Makes a graph of a function of one tensor, whose shape later ones have."""


def cuda_graph(function: Flat, sample: Tensor) -> Flat:
    """Both ways through `function`, captured."""
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)  # what a cache keeps would be of the capture
    try:
        graphed: Flat = torch.cuda.make_graphed_callables(function, (sample,))
    finally:
        torch.set_autocast_cache_enabled(cached)
    return graphed


def uncaptured(function: Flat, sample: Tensor) -> Flat:
    """The function itself, where there are no graphs: everything around a graph can run on a CPU."""
    return function


class GraphedNetwork:
    """Takes the place of the `forward` of an inversion's network.

    Args:
        inversion: whose private copy of the teacher is changed.
        capture: `cuda_graph`, or `uncaptured`.
    """

    def __init__(self, inversion: Inversion, capture: Capture) -> None:
        # What the product keeps to itself, since it has no such setting.
        self._statistics: Any = inversion._statistics
        network: Any = inversion._teacher.network
        self._plain = network.forward
        self._capture = capture
        self._graphs: dict[torch.Size, Flat] = {}
        self._order: list[Any] = []
        self._structure: Any = None
        self._moments = 0
        network.forward = self

    def __call__(self, images: Tensor) -> Any:
        if images.shape not in self._graphs:
            sample = images.detach().clone().requires_grad_()
            self._graphs[images.shape] = self._capture(self._flat, sample)
        flat = self._graphs[images.shape](images)
        self._statistics._values = list(flat[: self._moments])
        self._statistics._order = list(self._order)
        return tree_unflatten(list(flat[self._moments :]), self._structure)

    def _flat(self, images: Tensor) -> tuple[Tensor, ...]:
        """Moments of the statistics, then the outputs, all tensors."""
        self._statistics._values, self._statistics._order = [], []
        leaves, self._structure = tree_flatten(self._plain(images))
        moments, self._order = self._statistics._values, self._statistics._order
        self._moments = len(moments)
        return (*moments, *leaves)
