"""The processes that train one student together, as `torchrun` starts them, each on its slice of every batch."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from schemas.base import Contract
from schemas.errors import ConfigError, InputError
from stages.ranks import Rank

C = TypeVar("C", bound=Contract)

TIMEOUT = timedelta(hours=12)
"""How long ranks wait for each other: while the first one calibrates or measures sensitivity, the others have no work.
A rank that dies is noticed at once, by its closed connection."""


class Team:
    """All ranks of a training; of one process, where nothing is exchanged.

    What is exchanged is tensors: no pickled object.

    Args:
        rank: this process.
        device: of its gradients.
    """

    def __init__(self, rank: Rank, device: torch.device) -> None:
        self.count = rank.count
        self._rank = rank
        self._device = device

    @property
    def leads(self) -> bool:
        """Whether this rank calibrates, writes and reports."""
        return self._rank.index == 0

    def share(self, batch: int) -> slice:
        """This rank's part of a batch.

        Raises:
            ConfigError: the batch cannot be split evenly.
        """
        if batch % self.count:
            raise ConfigError(f"batch: got {batch}, takes a multiple of the {self.count} processes that share it")
        size = batch // self.count
        return slice(self._rank.index * size, (self._rank.index + 1) * size)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the ranks, which is the same on all of them, bit by bit."""
        if self.count == 1 or not tensors:
            return
        flat = _flatten_dense_tensors(list(tensors))
        with _peers():
            dist.all_reduce(flat)
        flat /= self.count
        for tensor, mean in zip(tensors, _unflatten_dense_tensors(flat, list(tensors)), strict=True):
            tensor.copy_(mean)

    def take_over(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by the leading rank's."""
        if self.count == 1:
            return
        for tensor in tensors:
            sent = tensor.detach().contiguous()
            with _peers():
                dist.broadcast(sent, src=0)
            tensor.detach().copy_(sent)

    def agree(self, kind: type[C], mine: C | None) -> C:
        """The leading rank's document, on every rank.

        Args:
            kind: of document.
            mine: what the leading rank says; None on the others.
        """
        if self.count == 1:
            assert mine is not None
            return mine
        data = torch.tensor(list(mine.to_json().encode()) if mine else [], dtype=torch.uint8)
        length = torch.tensor([len(data)])
        with _peers():
            dist.broadcast(length, src=0)
            if not self.leads:
                data = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(data, src=0)
        return kind.model_validate_json(bytes(data.tolist()))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; it goes over the CPU, so that no GPU is waited for.

        Raises:
            InputError: another rank ended.
        """
        if self.count == 1:
            return flag
        value = torch.tensor([int(flag)])
        with _peers():
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value)

    def wait(self) -> None:
        """Return when all ranks are here."""
        self.any(False)


@contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            "another rank of this training ended, and said why in its own output; start the same command again to go "
            f"on at the last checkpoint ({' '.join(str(error).split())[:120]})"
        ) from error


@contextmanager
def assembled(rank: Rank, device: torch.device) -> Iterator[Team]:
    """Inside the block the ranks can reach each other, at the address that `torchrun` gave them.

    Raises:
        ConfigError: the environment lacks that address.
    """
    if rank.count == 1:
        yield Team(rank, device)
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except ValueError as error:
        raise ConfigError(f"environment: {error}; qat on several processes is started by torchrun") from error
    try:
        yield Team(rank, device)
    finally:
        dist.destroy_process_group()
