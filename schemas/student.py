"""The student: a folder with `model.safetensors` and `student.json`."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from schemas.base import Contract, Document
from schemas.calibration_set import ImageSource, LabelMode
from schemas.provenance import Provenance
from schemas.qat_config import BitPolicy, QatConfig
from schemas.teacher import TeacherIdentity

MANIFEST = "student.json"
WEIGHTS = "model.safetensors"
PTQ_FOLDER = "ptq"
"""Sub-folder of a trained student that holds the same student before training."""


class TrainingMethod(StrEnum):
    """How far the student was taken."""

    PTQ = "PTQ"
    QAT = "QAT"


class QuantizerRecord(Contract):
    """One quantizer of the student."""

    name: str = Field(description="module path of the quantized layer, then `.weight` or `.input`")
    bits: int = Field(ge=2, le=8)
    granularity: Literal["per_tensor", "per_channel"]
    scheme: Literal["symmetric", "affine"]
    signed: bool = Field(description="integer range: signed -2^(b-1) to 2^(b-1)-1, unsigned 0 to 2^b-1")
    observer: Literal["squared_error"] = "squared_error"


class CalibrationSetReference(Contract):
    """The set a student was made with."""

    digest: str
    samples: int
    image_size: int
    label_mode: LabelMode
    image_source: ImageSource


class TrainingSummary(Contract):
    """What happened in training."""

    steps: int = Field(ge=0)
    seconds: float = Field(ge=0)
    first_loss: float | None
    last_loss: float | None = Field(description="mean over the last tenth of the steps")
    losses: tuple[float, ...] = Field(default=(), description="total loss of every step")


class StudentManifest(Document):
    """`student.json`; written last."""

    teacher: TeacherIdentity
    method: TrainingMethod
    bits: BitPolicy
    quantizers: tuple[QuantizerRecord, ...]
    calibration_set: CalibrationSetReference
    qat: QatConfig
    training: TrainingSummary
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    provenance: Provenance
