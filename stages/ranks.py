"""One process among several that work on the same output, as `torchrun` and Kubernetes Indexed Jobs start them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from schemas.errors import ConfigError


@dataclass(frozen=True)
class Rank:
    """This process, and how many there are.

    Attributes:
        index: from 0.
        count: number of processes over all nodes.
        local_index: from 0 on this node; chooses the GPU.
    """

    index: int = 0
    count: int = 1
    local_index: int = 0

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> "Rank":
        """From RANK, WORLD_SIZE and LOCAL_RANK; without them, the only process.

        Raises:
            ConfigError: they are not numbers, or contradict each other.
        """
        values = [environment.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))]
        values.append(environment.get("LOCAL_RANK", "0"))
        if not all(value.isdecimal() for value in values) or int(values[0]) >= int(values[1]):
            raise ConfigError(
                f"environment: RANK={values[0]!r} of WORLD_SIZE={values[1]!r}, LOCAL_RANK={values[2]!r}; "
                "they take whole numbers, RANK below WORLD_SIZE"
            )
        return cls(*(int(value) for value in values))

    def takes(self, number: int) -> bool:
        """Whether piece `number` of the work is this process's share."""
        return number % self.count == self.index

    def must_be_alone(self, stage: str) -> None:
        """For a stage that is one process.

        Raises:
            ConfigError: there are several.
        """
        if self.count > 1:
            raise ConfigError(f"{stage} runs as one process, got WORLD_SIZE={self.count}; start it without torchrun")
