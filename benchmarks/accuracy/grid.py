"""What an experiment is: a base configuration, the factors that vary, and which level the others are held against."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from schemas.base import Contract, read_config_values, validate_config
from schemas.run_config import RunConfig

CALIBRATION_SET = "calibration_set"
"""Key of a level that names the folder of a finished set, in place of `synth` settings."""
NOT_MEASURED: dict[str, Any] = {
    "qat": {"targets": []},
    "eval": {"onnx": {"models": "none"}, "samples": 0},
}
"""Settings that no experiment needs; below everything else."""


class Grid(Contract):
    """One experiment: every combination of one level of each factor, at every seed."""

    question: str = Field(min_length=1, description="what the experiment answers, a sentence")
    note: str | None = Field(default=None, description="what a reader of the results must know, sentences")
    base: dict[str, Any] = Field(description="settings of a run (`RunConfig`) that all cells share")
    factors: dict[str, dict[str, dict[str, Any]]] = Field(
        min_length=1,
        description="factor, its levels, and what each sets on top of the base; the first level of the first factor "
        "is what its other levels are compared with",
    )
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    seeded: tuple[Literal["synth", "qat"], ...] = Field(
        default=("qat",), min_length=1, description="stages that take the seed; a set is made once where synth does not"
    )

    @model_validator(mode="after")
    def _levels(self) -> Self:
        for name, levels in self.factors.items():
            if not levels:
                raise ValueError(f"factor {name!r} has no level")
        return self

    @classmethod
    def read(cls, path: Path) -> "Grid":
        """Read and validate a YAML file.

        Raises:
            ConfigError: the file is not a grid, or one of its cells is not the configuration of a run.
        """
        grid = validate_config(cls, read_config_values(path), str(path))
        for cell in grid.cells():
            cell.config(Path("unused"))
        return grid

    def cells(self) -> Iterator["Cell"]:
        """Every combination, the first factor varying fastest, so that what is compared runs side by side."""
        names = list(self.factors)
        for seed in self.seeds:
            for levels in itertools.product(*(self.factors[name] for name in reversed(names))):
                chosen = dict(zip(names, reversed(levels), strict=True))
                settings = merged(NOT_MEASURED, self.base)
                for name, level in chosen.items():
                    settings = merged(settings, self.factors[name][level])
                for stage in self.seeded:
                    settings = merged(settings, {stage: {"seed": seed}})
                calibration_set = settings.pop(CALIBRATION_SET, None)
                yield Cell(chosen, seed, settings, Path(calibration_set) if calibration_set else None)


@dataclass(frozen=True)
class Cell:
    """One run of an experiment.

    Attributes:
        levels: level of each factor.
        seed: of the stages that take it.
        settings: of a run.
        calibration_set: folder of a finished set; None: it is made.
    """

    levels: dict[str, str]
    seed: int
    settings: dict[str, Any]
    calibration_set: Path | None

    @property
    def name(self) -> str:
        """For people: `adaptive, W4A8, seed 0`."""
        return ", ".join([*self.levels.values(), f"seed {self.seed}"])

    def config(self, storage: Path) -> RunConfig:
        """The run.

        Raises:
            ConfigError: the settings do not fit together.
        """
        return validate_config(RunConfig, self.settings | {"storage": str(storage)}, self.name)


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with what `above` sets, section by section."""
    result = dict(below)
    for key, value in above.items():
        mine = result.get(key)
        result[key] = merged(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return result
