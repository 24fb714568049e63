"""Inference engines that a student is exported for, and what each makes of the file."""

from pathlib import Path

from pydantic import Field

from schemas.base import Contract
from schemas.engine_names import Target

__all__ = ["FORMATS", "Census", "FloatLayer", "Target", "exported_path"]

FORMATS = {Target.LITERT: "tflite"}
"""Endings of the files of targets that do not read ONNX models."""


class FloatLayer(Contract):
    """A convolution, linear layer or product that an engine computes in float."""

    name: str = Field(description="of its node in the file")
    reason: str


class Census(Contract):
    """What an engine computes in integers and what in float."""

    by: str = Field(description="what was asked: an engine with its version, or the rules of one that is not here")
    integer: dict[str, int] = Field(description="number of operators that compute in integers, by kind")
    floating: dict[str, int] = Field(description="number of operators that compute in float, by kind")
    float_layers: tuple[FloatLayer, ...] = Field(description="layers among those in float, each with its reason")


def exported_path(folder: Path, target: Target) -> Path:
    """Where a student's folder holds the file for a target."""
    return folder / f"model.{target.value}.{FORMATS.get(target, 'onnx')}"
