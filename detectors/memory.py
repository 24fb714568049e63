"""What a step takes of memory: counted on small images before any work, and said in one line where it runs out.

A GPU says by itself that its memory is spent, and at once. A CPU's process is killed without a word, often after hours:
so what its steps take is asked for first. On large images all that counts is in proportion to their pixels.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detectors.detections import Detections
from detectors.protocol import Detector
from schemas.errors import InputError
from schemas.image_size import ImageSize

PROBE = 160
"""Side of the smaller of the two images that are counted on, pixels; the other's is twice that."""


def worth_asking(detector: Detector, size: ImageSize) -> bool:
    """Whether images of `size` are larger than those that are counted on, and a CPU's."""
    return _device(detector).type == "cpu" and size.pixels > (2 * _probe_side(detector)) ** 2


def per_pixel(detector: Detector, count: Callable[[Tensor, list[Detections]], int]) -> float:
    """Bytes that each further pixel of an image takes.

    Args:
        detector: for its stride, its classes and the shapes of its objects.
        count: bytes that one image, `(1, 3, H, W)`, and its labels take.
    """
    side = _probe_side(detector)
    counts = []
    for factor in (1, 2):
        images = torch.rand(1, 3, *[factor * side] * 2, generator=torch.Generator().manual_seed(0))
        box = torch.tensor([[0.25, 0.25, 0.75, 0.75]]) * factor * side
        label = Detections.of(box, torch.zeros(1, dtype=torch.long))
        counts.append(count(images.contiguous(memory_format=torch.channels_last), detector.shaped(images, [label])))
    return (counts[1] - counts[0]) / (3 * side**2)


def _probe_side(detector: Detector) -> int:
    stride = detector.identity.stride
    return -(-max(PROBE, detector.smallest_input) // stride) * stride


def _device(detector: Detector) -> torch.device:
    return next(detector.network.parameters()).device


@contextmanager
def fitting(what: str, settings: str) -> Iterator[None]:
    """Work that may run out of memory, which then is one line.

    Args:
        what: does not fit, as the line begins.
        settings: what to lower.

    Raises:
        InputError: the memory of the GPU or of the machine ran out where PyTorch asked for it.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(f"{what} do not fit into the GPU's memory; lower {settings}") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise InputError(f"{what} do not fit into memory; lower {settings}") from error


def kept_bytes(forward: Callable[[], object]) -> int:
    """Bytes that autograd keeps for the way back of one forward pass, parameters left out.

    Args:
        forward: gives what holds the graph.
    """
    storages: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        if not isinstance(saved if saved._base is None else saved._base, nn.Parameter):
            storage = saved.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        holder = forward()  # storages are told apart by their address, so all have to live
    del holder
    return sum(storages.values())


def live_bytes(work: Callable[[], object]) -> int:
    """Most bytes that tensors made by `work`, which takes no gradients, are alive in at once."""
    with _LiveTensors() as live, torch.no_grad():
        work()
    return live.most


class _LiveTensors(TorchDispatchMode):
    """Follows every tensor that an operator gives out until nobody holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = 0
        self._holders: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor) or any(tensor is leaf for leaf in tree_leaves((args, kwargs))):
                continue  # what works in place gives out what it was given
            place, size = _storage(tensor), tensor.untyped_storage().nbytes()
            if place in given and not self._holders[place]:
                continue  # a view of what was there before
            if not self._holders[place]:
                self._now += size
                self.most = max(self.most, self._now)
            self._holders[place] += 1
            weakref.finalize(tensor, self._let_go, place, size)
        return result

    def _let_go(self, place: int, size: int) -> None:
        self._holders[place] -= 1
        if not self._holders[place]:
            self._now -= size


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
