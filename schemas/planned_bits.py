"""Configuration of mixed precision: how each layer's sensitivity is measured, and what is planned from it."""

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from schemas.base import Contract

Bits = Annotated[int, Field(ge=2, le=8)]
"""Bits of a quantizer."""
STORED_WIDTHS = (4, 8)
"""Weight bits that engines store."""
SAFE_BITS = 7
"""Most bits of weights whose products with 8-bit activations never overflow: x86 processors without VNNI add two of
them in 16 bits."""
ALL_WIDTHS = (2, 3, 4, 6, 8)
"""Weight bits that are planned with where no engine is named."""


class SensitivityConfig(Contract):
    """How each layer's sensitivity is measured, and what is planned from it; at most one of the two targets."""

    candidates: tuple[Bits, ...] | None = Field(
        default=None,
        min_length=1,
        strict=False,  # a run configuration is validated from plain Python values
        description="weight bits that are measured and planned with; null: 4 and 8, which engines store, or 2, 3, 4, 6 "
        "and 8 where no target is named",
    )
    images: int = Field(default=32, ge=1, description="at most this many images of the calibration set are looked at")
    budget: float | None = Field(
        default=None, ge=2, le=8, description="mixed precision of at most this mean over all weights that are quantized"
    )
    max_drop: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="mixed precision of the fewest bits that, before training, cost at most this share of the "
        "teacher's mAP50-95 on the labels of the calibration set",
    )

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if self.budget is not None and self.max_drop is not None:
            raise ValueError(f"budget {self.budget:g} and max_drop {self.max_drop:g} are both set: set one of them")
        return self

    @field_validator("candidates")
    @classmethod
    def _each_once(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        given = value or ()
        for bits in given:
            if given.count(bits) > 1:
                raise ValueError(f"{bits} is there twice")
        return value

    @property
    def plans(self) -> bool:
        """Whether bits are planned from what is measured."""
        return self.budget is not None or self.max_drop is not None
