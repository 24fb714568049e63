"""The least time a step can take here: its operations and bytes, over what the device was seen to reach.

Both peaks are measured on the device, by a large matrix product and a large copy, and not looked up. Only convolutions
and matrix products count: all else could be fused into them. Each takes the longer of the time of its operations and
that of its tensors, read or written once; the floor is the sum.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.gpu.arithmetic import Arithmetic, computing_in

REPETITIONS = 5


@dataclass(frozen=True)
class Peaks:
    """What the device reaches.

    Attributes:
        operations: floating-point operations a second, by arithmetic; a multiply-add is two.
        bytes: read and written a second.
    """

    operations: dict[Arithmetic, float]
    bytes: float


@dataclass(frozen=True)
class Operation:
    """One convolution or matrix product."""

    operations: int
    bytes: int


@dataclass(frozen=True)
class Floor:
    """Seconds that a step takes at least: by its operations alone, by its bytes alone, and by the longer of each."""

    operations: float
    bytes: float
    seconds: float

    @classmethod
    def of(cls, counted: list[Operation], peaks: Peaks, arithmetic: Arithmetic) -> "Floor":
        rate = peaks.operations[arithmetic]
        each = [(one.operations / rate, one.bytes / peaks.bytes) for one in counted]
        return cls(sum(first for first, _ in each), sum(second for _, second in each), sum(map(max, each)))


class Counting(TorchDispatchMode):
    """Notes each convolution and matrix product that runs inside, by PyTorch's own formulas."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            tensors = {id(leaf): leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)}
            moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
            self.found.append(Operation(int(formula(*args, **(kwargs or {}), out_val=result)), moved))
        return result


def count(step: Callable[[], object]) -> list[Operation]:
    """The convolutions and matrix products of one step."""
    with Counting() as counting:
        step()
    return counting.found


def measure_peaks(device: torch.device, side: int, copied: int) -> Peaks:
    """The best of several products of square matrices of `side`, and of copies of `copied` bytes."""
    operations = {}
    for arithmetic in Arithmetic:
        matrix = torch.rand(side, side, device=device).to(arithmetic.dtype)
        with computing_in(arithmetic):
            operations[arithmetic] = 2 * side**3 / best_of(lambda matrix=matrix: matrix @ matrix, device)  # type: ignore[misc]
    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Peaks(operations, 2 * copied / best_of(lambda: target.copy_(source), device))


def best_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the quickest of some repetitions, after one that does not count."""
    seconds = []
    for _ in range(REPETITIONS + 1):
        start = clock(device)
        work()
        seconds.append(clock(device) - start)
    return min(seconds[1:])


def clock(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
