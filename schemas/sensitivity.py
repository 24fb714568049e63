"""How much each layer suffers from quantization: `sensitivity.json`."""

from pydantic import Field

from schemas.base import Contract, Document
from schemas.planned_bits import Bits
from schemas.provenance import Provenance
from schemas.qat_config import Policy
from schemas.student import CalibrationSetReference
from schemas.teacher import TeacherIdentity

SENSITIVITY = "sensitivity.json"
PLAN = "plan.yaml"
"""A qat configuration with the planned bits, beside `sensitivity.json`."""


class ErrorAtBits(Contract):
    """The error of the whole network's output when one layer alone has its weights at some bits."""

    weight_bits: Bits
    error: float = Field(ge=0)


class LayerSensitivity(Contract):
    """One quantizable layer."""

    name: str = Field(description="module path")
    weights: int = Field(ge=1, description="number of weights")
    fixed_bits: Bits | None = Field(default=None, description="weight bits the policy fixes; null: free to be planned")
    errors: tuple[ErrorAtBits, ...] = Field(min_length=1, description="fewest bits first")

    def error(self, weight_bits: int) -> float:
        """The error at `weight_bits`, which must be among the measured ones."""
        return next(each.error for each in self.errors if each.weight_bits == weight_bits)


class SensitivityReport(Document):
    """Layers in the order of the network; measured on the calibration set, without a real image."""

    teacher: TeacherIdentity
    calibration_set: CalibrationSetReference
    policy: Policy
    images: int = Field(ge=1, description="calibration images the errors are a mean over")
    metric: str = Field(description="what `error` is, in words")
    layers: tuple[LayerSensitivity, ...] = Field(min_length=1)
    provenance: Provenance

    def ranked(self) -> list[LayerSensitivity]:
        """Layers by their error at the fewest measured bits, most sensitive first; ties in the network's order."""
        return sorted(self.layers, key=lambda layer: -layer.errors[0].error)
