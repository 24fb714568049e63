"""Inversions that do not stay finite: noticed, tried again from other random numbers, recorded."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from detectors.memory import fitting
from schemas.calibration_set import DivergedBatch
from schemas.errors import InputError

ATTEMPTS = 3
"""How often a batch is begun before the stage gives up."""

BATCHES = {"label sampling": "labels.batch", "inversion": "inversion.batch"}
"""The setting of each phase that decides how many images are optimised together."""

T = TypeVar("T")


class Diverged(Exception):
    """An inversion met a loss or pixels that are not finite; it never leaves this package.

    Args:
        positions: of the images concerned, in their batch.
        step: iteration at which it was noticed, from 1.
    """

    def __init__(self, positions: Sequence[int], step: int) -> None:
        super().__init__(f"images {list(positions)} are not finite at step {step}")
        self.positions = positions
        self.step = step


class Attempts:
    """The attempts at the batches of one shard.

    Args:
        say: takes a message about each one that failed.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.failed: list[DivergedBatch] = []

    def run(
        self,
        phase: Literal["label sampling", "inversion"],
        indices: range,
        change: str,
        work: Callable[[int], T],
    ) -> T:
        """The result of `work(attempt)`, begun again with the next attempt's number where it diverges.

        Args:
            phase: for the record.
            indices: samples of the batch.
            change: settings that may help, for the error.
            work: one attempt; its randomness comes from (seed, sample index, attempt), so that it can be repeated.

        Raises:
            InputError: no attempt stayed finite, or a batch does not fit into memory; it is not made smaller
                here, since batch statistics see it as one and its size decides the images.
        """
        for attempt in range(ATTEMPTS):
            try:
                with fitting(f"{phase}: {len(indices)} images at once", BATCHES[phase]):
                    return work(attempt)
            except Diverged as error:
                samples = tuple(indices[position] for position in error.positions)
                self.failed.append(DivergedBatch(phase=phase, samples=samples, step=error.step, attempt=attempt))
                named = f"{phase} of samples {', '.join(map(str, samples))}: not finite by step {error.step}"
                if attempt + 1 < ATTEMPTS:
                    self._say(f"{named}; trying again with other random numbers ({attempt + 2} of {ATTEMPTS})")
        raise InputError(f"{named}, in each of {ATTEMPTS} attempts; finished shards are kept. Lower {change}")
