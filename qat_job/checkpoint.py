"""Checkpoints of a training: what `train` needs to go on as if it had never stopped."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from schemas.base import Document
from schemas.errors import ConfigError, InputError, VerificationError
from schemas.provenance import Provenance
from schemas.qat_config import BitPolicy
from stages.container import other_output
from stages.storage import atomic_path, file_digest, remove_file, write_text

CHECKPOINTS = "checkpoints"
"""Sub-folder of the student that is being trained."""


class CheckpointRecord(Document):
    """`step-<steps>.json`; written after the tensors it names, which makes them a checkpoint."""

    provenance: Provenance
    bits: BitPolicy = Field(description="as planned, where mixed precision was asked for")
    steps: int = Field(ge=1, description="optimiser steps done")
    seconds: float = Field(ge=0, description="training time until here")
    learning_rates: tuple[float, ...] = Field(description="of each parameter group")
    schedule: dict[str, Any] = Field(description="state of the learning-rate schedule, plain values")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the tensors")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint, in memory."""

    record: CheckpointRecord
    tensors: dict[str, Tensor]


@dataclass
class TrainingState:
    """Everything that moves while a student trains. The images of step k depend on (seed, k): the position is a number.

    Attributes:
        network: weights, step sizes, zero points, batch-norm statistics.
        optimizer: Adam's moments, and the rate of each group.
        schedule: of the rates.
        losses: of every step done, scalars on the device.
        seconds: training time so far.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    losses: list[Tensor]
    seconds: float = 0.0

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, on the CPU, PyTorch's random states included."""
        found = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        found["losses"] = torch.stack(self.losses)
        found["random.cpu"] = torch.get_rng_state()
        for number, state in enumerate(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ()):
            found[f"random.cuda.{number}"] = state
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}

    def is_finite(self) -> bool:
        """Whether the last step left numbers: a checkpoint of others would be worth nothing."""
        values = [self.losses[-1], *self.network.parameters()]
        return bool(torch.stack([torch.isfinite(value).all() for value in values]).all())

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to where `checkpoint` was saved."""
        tensors, record = checkpoint.tensors, checkpoint.record
        self.network.load_state_dict(_below(tensors, "network"))
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below(tensors, "optimizer").items():
            index, _, kind = name.partition(".")
            # In the parameter's memory layout: elementwise kernels may round otherwise on another one.
            like = torch.empty_like(parameters[int(index)]).copy_(tensor) if kind != "step" else tensor
            moments.setdefault(int(index), {})[kind] = like
        groups = self.optimizer.state_dict()["param_groups"]
        initial = record.schedule["base_lrs"]
        for group, rate, first in zip(groups, record.learning_rates, initial, strict=True):
            group |= {"lr": rate, "initial_lr": first}
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.schedule.load_state_dict(record.schedule)
        device = next(self.network.parameters()).device
        self.losses[:] = tensors["losses"].to(device).unbind()
        self.seconds = record.seconds
        torch.set_rng_state(tensors["random.cpu"])
        cuda = _below(tensors, "random.cuda")
        if torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([cuda[str(number)] for number in range(len(cuda))])


class Checkpoints:
    """The checkpoints of one training, in a folder of their own.

    Args:
        folder: of the checkpoints; created with the first one.
        provenance: of the run; only its own checkpoints are taken up.
        keep: how many of the latest stay.
    """

    def __init__(self, folder: Path, provenance: Provenance, keep: int) -> None:
        self.folder = folder
        self._provenance = provenance
        self._keep = keep

    def latest(self, overwrite: bool, say: Callable[[str], None]) -> Checkpoint | None:
        """The latest whole checkpoint of this run, None where there is none.

        Args:
            overwrite: leave to delete those of another run.
            say: takes a message about each that is damaged and passed over.

        Raises:
            ConfigError: there are those of a run with other settings or inputs, and `overwrite` is not set.
        """
        for path in reversed(self._records()):
            try:
                record = CheckpointRecord.read(path)
                if record.provenance.key != self._provenance.key:
                    self._give_way(record, overwrite)
                    return None
                tensors = path.with_suffix(".safetensors")
                if file_digest(tensors) != record.sha256:
                    raise VerificationError(f"{tensors}: content does not match its digest")
                return Checkpoint(record, load_file(tensors))
            except (InputError, VerificationError, SafetensorError) as error:
                say(f"passing over a damaged checkpoint: {error}")
        return None

    def _give_way(self, other: CheckpointRecord, overwrite: bool) -> None:
        if not overwrite:
            differences = "; ".join(other.provenance.differences(self._provenance))
            raise ConfigError(
                f"{self.folder.parent} holds an unfinished training with other settings ({differences}); "
                f"{other_output('qat')}"
            )
        self.clear()

    def save(self, state: TrainingState, bits: BitPolicy) -> None:
        """Write a checkpoint, then drop the oldest ones beyond those that stay.

        Later ones can only be those that `latest` passed over as damaged: they go first, or they would count as newer.
        """
        steps = len(state.losses)
        for path in self._records():
            if path.stem > f"step-{steps:08d}":
                _remove(path)
        tensors = self.folder / f"step-{steps:08d}.safetensors"
        with atomic_path(tensors) as temporary:
            temporary.write_bytes(save(state.tensors()))
        record = CheckpointRecord(
            provenance=self._provenance,
            bits=bits,
            steps=steps,
            seconds=state.seconds,
            learning_rates=tuple(group["lr"] for group in state.optimizer.param_groups),
            schedule=state.schedule.state_dict(),
            sha256=file_digest(tensors),
        )
        write_text(tensors.with_suffix(".json"), record.to_json())
        for path in self._records()[: -self._keep]:
            _remove(path)

    def clear(self) -> None:
        """Delete them all, and the folder if nothing else is in it."""
        for path in self._records():
            _remove(path)
        for path in self.folder.glob("step-*.safetensors"):  # written, but killed before its record
            remove_file(path)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _records(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.json"))


def _remove(record: Path) -> None:
    """The record first: where there is one, there are its tensors."""
    remove_file(record)
    remove_file(record.with_suffix(".safetensors"))


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
