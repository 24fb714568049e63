"""One JSON line per run of an experiment."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from schemas.base import Contract, canonical_digest
from schemas.errors import InputError


class ModelResult(Contract):
    """One model of a run."""

    map50_95: float
    resampled: tuple[float, ...] = Field(
        description="the same on resamples of the validation images, equal ones in every run on the same data"
    )


class RunResult(Contract):
    """What one cell of a grid gave."""

    key: str = Field(description="sha256 of the configuration and the calibration set's digest: equal keys, equal runs")
    levels: dict[str, str]
    seed: int
    full_precision: ModelResult
    ptq: ModelResult
    qat: ModelResult | None = Field(description="null: calibration alone was asked for")
    set_digest: str
    set_images: int
    training_seconds: float
    data: str = Field(description="name of the validation data")
    images: int = Field(ge=1, description="validation images")
    image_size: int
    code_version: str

    def share(self, model: ModelResult) -> float:
        """Of full precision."""
        return model.map50_95 / self.full_precision.map50_95

    def resampled_share(self, model: ModelResult) -> NDArray[np.float64]:
        """Share of full precision on each resample, `(R,)`."""
        return np.array(model.resampled) / np.array(self.full_precision.resampled)


def read_results(path: Path) -> list[RunResult]:
    """All lines of a results file, none where there is no file.

    Raises:
        InputError: a line is not a result.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        return [RunResult.model_validate_json(line) for line in lines]
    except ValueError as error:
        raise InputError(f"{path}: holds a line that is not a result ({error}); remove that line") from error


def append_result(path: Path, result: RunResult) -> None:
    """Add one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(result.model_dump_json() + "\n")


def run_key(config: dict[str, object], set_digest: str) -> str:
    """See `RunResult.key`."""
    return canonical_digest({"config": config, "calibration set": set_digest})
