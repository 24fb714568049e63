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


class PrecisionRecall(Contract):
    """Precision at the 101 recall levels 0, 0.01, ..., 1 of COCO, mean over classes with labels, all areas."""

    iou50: tuple[float, ...] = Field(min_length=101, max_length=101, description="at IoU 0.50")
    iou50_95: tuple[float, ...] = Field(min_length=101, max_length=101, description="mean over IoU 0.50 to 0.95")


class Latency(Contract):
    """Time of one image (batch 1) in an inference engine, pre- and postprocessing excluded."""

    engine: str = Field(description="for example onnxruntime 1.23 CPU")
    threads: int = Field(ge=1)
    median_ms: float = Field(gt=0)
    p95_ms: float = Field(gt=0)
    repetitions: int = Field(ge=1)


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
    precision_recall: PrecisionRecall | None = Field(default=None, description="null in reports of older versions")
    file_bytes: int | None = Field(default=None, ge=1, description="size of the exported file; null: not exported")
    latencies: tuple[Latency, ...] = Field(default=(), description="of the exported file, by engine and threads")


class EvalReport(Document):
    """Full precision and students side by side."""

    data: ValidationData
    models: tuple[EvaluatedModel, ...] = Field(min_length=1)
    eval: EvalConfig
    provenance: Provenance
