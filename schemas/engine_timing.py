"""What an exported file does with its time in an engine."""

from typing import Literal

from pydantic import Field

from schemas.base import Contract


class Spread(Contract):
    """A median and what nine of ten values lie between."""

    median: float = Field(gt=0)
    low: float = Field(ge=0, description="5th percentile")
    high: float = Field(ge=0, description="95th percentile")


class OperatorTime(Contract):
    """Time of all operators of a kind for one image, one thread, as the engine's own profiler tells it."""

    kind: str
    where: Literal["integer", "float", "conversion"] = Field(
        description="what it computes in; conversion: between integers and floats"
    )
    count: int = Field(ge=1, description="operators of the kind")
    milliseconds: float = Field(ge=0)


class Throughput(Contract):
    """Images a second at a batch size, with all threads."""

    engine: str
    threads: int = Field(ge=1)
    batch: int = Field(ge=1)
    images_per_second: float = Field(gt=0, description="from the median of the runs")
    repetitions: int = Field(ge=1)
