"""The rows of the table: which detector, how many bits, and what the paper says of them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from schemas.base import Contract, read_config_values, validate_config
from schemas.errors import ConfigError
from schemas.teacher import EMBEDDED

PUBLISHED = Path(__file__).parent / "published.yaml"
BITS = ("w8a8", "w6a6", "w4a8")


class Published(Contract):
    """A detector of the paper, mAP50-95 in points."""

    title: str
    checkpoint: str = Field(description="its published name")
    full_precision: float
    students: dict[str, float] = Field(description="by bits; what the paper does not give is not there")


@dataclass(frozen=True)
class Detector:
    """A detector that rows are made of.

    Attributes:
        name: of its folder, and what the command line calls it.
        checkpoint: file, published name, or `embedded`.
        published: the paper's figures; None for a detector that is not in the paper.
    """

    name: str
    checkpoint: str
    published: Published | None = field(compare=False)

    @property
    def title(self) -> str:
        """For people."""
        return self.name if self.published is None else self.published.title


@dataclass(frozen=True)
class Row:
    """A student of a detector."""

    detector: Detector
    bits: str

    @property
    def name(self) -> str:
        """As the command line takes it: `yolo11s:w4a8`."""
        return f"{self.detector.name}:{self.bits}"


def published_detectors() -> dict[str, Detector]:
    """The paper's detectors by name, in its order."""
    values = read_config_values(PUBLISHED)
    found = {name: validate_config(Published, each, f"{PUBLISHED}: {name}") for name, each in values.items()}
    return {name: Detector(name, each.checkpoint, each) for name, each in found.items()}


def chosen_rows(names: Sequence[str]) -> list[Row]:
    """The rows that the command line names, each once: a detector, or a detector and bits; none named: all.

    Raises:
        ConfigError: a name is neither a detector of the paper nor a file, or has no such bits.
    """
    known = published_detectors()
    rows: dict[str, Row] = {}
    for name in names or known:
        start, _, bits = name.rpartition(":") if name.lower().endswith(BITS) and ":" in name else (name, "", "")
        detector = known.get(start) or _own(start, known)
        for each in [bits.lower()] if bits else BITS:
            row = Row(detector, each)
            rows[row.name] = row
    return list(rows.values())


def _own(name: str, known: dict[str, Detector]) -> Detector:
    if name == EMBEDDED:
        return Detector(EMBEDDED, EMBEDDED, None)
    if not os.path.isfile(name):
        raise ConfigError(
            f"row {name!r}: takes {', '.join(known)} or a checkpoint file, alone or with one of "
            f"{', '.join(':' + bits for bits in BITS)}"
        )
    path = Path(name).absolute()
    return Detector(path.stem, str(path), None)
