"""The result of an evaluation: `report.json`."""

from typing import Literal

from pydantic import Field

from schemas.base import Contract, Document
from schemas.calibration_set import AveragePrecision, ImageSource, LabelMode
from schemas.eval_config import EvalConfig
from schemas.provenance import Provenance

REPORT = "report.json"
DETECTIONS = "detections.json"


class ValidationData(Contract):
    """The real (or rendered) images everything was measured on."""

    source: str
    format: Literal["coco", "yolo", "rendered"]
    digest: str = Field(description="sha256 over images and labels, in order")
    images: int = Field(ge=1)
    boxes: int = Field(ge=1)
    image_size: int = Field(ge=32, description="letterboxed side, pixels")


class EvaluatedModel(Contract):
    """One row of the table."""

    name: str = Field(description="full precision, PTQ W4A8 deploy, QAT W4A8 deploy, ...")
    weights_sha256: str
    label_mode: LabelMode | None = Field(default=None, description="null for the teacher")
    image_source: ImageSource | None = Field(default=None, description="null for the teacher")
    precision: AveragePrecision
    share_of_full_precision: float = Field(description="mAP50-95 as a share of the teacher's")
    per_class: dict[str, float] = Field(description="AP50-95 of each class with boxes in the data")
    seconds_per_image: float = Field(ge=0, description="forward pass and NMS, simulated quantization included")


class EvalReport(Document):
    """Full precision and students side by side."""

    data: ValidationData
    models: tuple[EvaluatedModel, ...] = Field(min_length=1)
    eval: EvalConfig
    provenance: Provenance
