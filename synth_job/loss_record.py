"""The terms of the inversion loss as TensorBoard event files."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

TERMS = ("task", "statistics", "first_layer", "total_variation")
"""Names of the unweighted terms, in the order of a recorded row."""


class LossRecord:
    """Writes after an inversion has ended: no step waits for the device.

    Args:
        folder: of the event files.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # an optional extra, and slow to import

        self._writer = SummaryWriter(folder)

    def write(self, phase: str, rows: Sequence[Tensor], first_step: int) -> None:
        """The terms of consecutive steps, `(4,)` each; batches of images stand one after another."""
        for step, row in enumerate(torch.stack(list(rows)).tolist(), start=first_step):
            for term, value in zip(TERMS, row, strict=True):
                self._writer.add_scalar(f"{phase}/{term}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
