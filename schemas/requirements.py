"""What a student must reach, and whether it did: `eval.require` and the verdict in `report.json`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from schemas.base import Contract
from schemas.engine_names import Target


class Requirements(Contract):
    """Bars for the model that a report is about; where one is missed, `eval` ends with exit code 4."""

    share: float | None = Field(
        default=None, gt=0, le=2, description="lowest mAP50-95, or agreement, as a share of the full-precision one"
    )
    speed_up: float | None = Field(
        default=None,
        gt=0,
        le=1000,
        description="lowest speed of the exported file, times that of FP32 in the same engine, fewest threads timed",
    )
    target: Target | None = Field(
        default=None, description="the file that is judged, by its target; null: the one that the report is about"
    )

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.share is None and self.speed_up is None:
            raise ValueError("require: neither share nor speed_up is set, so nothing is required; set one, or leave it")
        return self


class Judgement(Contract):
    """One requirement, held against what was measured."""

    requirement: Literal["share", "speed_up"]
    required: float
    found: float | None = Field(description="null: not measured")
    low: float | None = Field(default=None, description="95 % interval of what was found; null: not known")
    high: float | None = Field(default=None, description="its upper end")
    met: bool

    @property
    def is_close(self) -> bool:
        """Whether the bar lies within the interval: other images, or other runs, might decide otherwise."""
        return self.low is not None and self.high is not None and self.low <= self.required <= self.high


class Verdict(Contract):
    """Whether the requirements are met; all of them must be."""

    model: str | None = Field(description="name of the row that was judged; null: the file is not in the report")
    judged: tuple[Judgement, ...] = Field(min_length=1)

    @property
    def met(self) -> bool:
        """Whether nothing was missed."""
        return all(each.met for each in self.judged)
