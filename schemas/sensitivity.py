"""How much each layer suffers from quantization: `sensitivity.json`."""

from pydantic import Field

from schemas.base import Contract, Document
from schemas.qat_config import Policy
from schemas.student import CalibrationSetReference
from schemas.teacher import TeacherIdentity

SENSITIVITY = "sensitivity.json"


class ErrorAtBits(Contract):
    """The error of the whole network's output when one layer alone has its weights at some bits."""

    weight_bits: int = Field(ge=2, le=8)
    error: float = Field(ge=0)


class LayerSensitivity(Contract):
    """One quantizable layer."""

    name: str = Field(description="module path")
    weights: int = Field(ge=1, description="number of weights")
    errors: tuple[ErrorAtBits, ...] = Field(min_length=1, description="fewest bits first")


class SensitivityReport(Document):
    """Layers in the order of the network; measured on the calibration set, without a real image."""

    teacher: TeacherIdentity
    calibration_set: CalibrationSetReference
    policy: Policy
    images: int = Field(ge=1, description="calibration images the errors are a mean over")
    metric: str = Field(description="what `error` is, in words")
    layers: tuple[LayerSensitivity, ...] = Field(min_length=1)
