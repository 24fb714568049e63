"""The result of an evaluation: `report.json`."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Contract, Document
from schemas.calibration_set import AveragePrecision, ImageSource, LabelMode, LabelStatistics
from schemas.engine_timing import OperatorTime, Spread, Throughput
from schemas.eval_config import EvalConfig
from schemas.image_size import SMALLEST_SIDE, ImageSize, Sides
from schemas.labels import ShapeKind
from schemas.layer_study import LayerGap, Parts, SetCheck
from schemas.operating_point import ClassChanges, ClassLabels, ConfidenceShift, DeploymentRecall, MatchedThreshold
from schemas.provenance import Provenance
from schemas.requirements import Verdict
from schemas.target import Census, Target

REPORT = "report.json"
DETECTIONS = "detections.json"
PAGE = "report.html"
SUMMARY = "summary.md"
"""The verdict in Markdown, to paste into a pull request."""
SAMPLES_FOLDER = "samples"
"""Folder of the sample pictures, beside `report.json`."""
CONFIDENT = 0.25
"""Lowest score of a detection that is shown or counted in statistics; what Ultralytics' predict shows."""


class Measure(StrEnum):
    """What the figures of a report say."""

    ACCURACY = "accuracy"
    """Average precision against somebody's labels."""
    AGREEMENT = "agreement"
    """The same figures against what the full-precision detector finds itself: how much a student is like it."""


class ValidationData(Contract):
    """The images everything was measured on."""

    source: str
    format: Literal["coco", "yolo", "voc", "rendered", "photos", "synthetic"] = Field(
        description="photos: without labels; synthetic: images that were held back of a calibration set"
    )
    label_confidence: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="lowest score of the full-precision detections that stand for labels; null: labels of the data",
    )
    digest: str = Field(description="sha256 over images and labels, in order")
    images: int = Field(ge=1)
    boxes: int = Field(ge=1)
    image_size: Annotated[ImageSize, Sides(SMALLEST_SIDE)] = Field(
        description="letterboxed to a square of this side, pixels, or to [height, width]"
    )


class PrecisionRecall(Contract):
    """Precision at the 101 recall levels 0, 0.01, ..., 1 of COCO, mean over classes with labels, all areas."""

    iou50: tuple[float, ...] = Field(min_length=101, max_length=101, description="at IoU 0.50")
    iou50_95: tuple[float, ...] = Field(min_length=101, max_length=101, description="mean over IoU 0.50 to 0.95")


class Interval(Contract):
    """A 95 % interval from a bootstrap over the validation images: 1.96 standard errors to either side."""

    low: float
    high: float


class Uncertainty(Contract):
    """What another sample of as many images might have given; says nothing about another training seed."""

    map50_95: Interval
    share: Interval | None = Field(description="of the share of full precision, on the same resamples; null for itself")
    resamples: int = Field(ge=1)
    values: tuple[float, ...] = Field(
        default=(), description="mAP50-95 of each resample, to pair with another model's on the same images"
    )


class VocPrecision(Contract):
    """Average precision at IoU 0.50 by the definitions of Pascal VOC, mean over classes with objects to find.

    Detections are matched as the VOC development kit does, and objects marked difficult neither count nor hurt.
    """

    eleven_point: float = Field(ge=0, le=1, description="2007: precision at recall 0, 0.1, ..., 1")
    all_point: float = Field(ge=0, le=1, description="2010 and later: area under the whole curve")
    per_class: dict[str, float] = Field(description="all-point AP50 of each class with objects to find")


class ShapePrecision(Contract):
    """Average precision of what a head says of objects beside their boxes.

    Masks and keypoints by pycocotools, turned boxes by the Ultralytics package's probabilistic IoU.
    """

    kind: ShapeKind
    precision: AveragePrecision

    def share_of(self, full_precision: "ShapePrecision | None") -> float:
        """AP50-95 as a share of full precision's; 0 where that finds nothing."""
        full = full_precision.precision.map50_95 if full_precision else 0.0
        return self.precision.map50_95 / full if full > 0 else 0.0


class SampleBox(Contract):
    """A box drawn on a sample picture, with the outline or the points of its object where a head sees them."""

    bbox: tuple[float, float, float, float] = Field(description="[x, y, w, h] in pixels of the stored picture")
    class_name: str
    score: float = Field(default=1.0, ge=0, le=1, description="1 for labels")
    outlines: tuple[tuple[float, ...], ...] = Field(
        default=(), description="polygons [x1, y1, x2, y2, ...] in pixels of the stored picture"
    )
    points: tuple[tuple[float, float, float], ...] = Field(
        default=(), description="[x, y, v] of keypoints likewise, v 0 where one is not labelled"
    )


class SamplePicture(Contract):
    """A validation image as the report shows it, without metadata and not larger than the page needs."""

    file: str = Field(pattern=r"^[0-9]{4}\.jpg$", description="in the folder `samples` beside the report")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    width: int = Field(ge=1, description="pixels")
    height: int = Field(ge=1, description="pixels")
    labels: tuple[SampleBox, ...]
    detections: dict[str, tuple[SampleBox, ...]] = Field(description="of each model by name, confident ones")


class Latency(Contract):
    """Time of one image (batch 1) in an inference engine, pre- and postprocessing excluded."""

    engine: str = Field(description="for example onnxruntime 1.23 CPU")
    threads: int = Field(ge=1)
    median_ms: float = Field(gt=0)
    p95_ms: float = Field(gt=0)
    p5_ms: float | None = Field(default=None, gt=0, description="null in reports of older versions")
    speed_up: Spread | None = Field(
        default=None, description="times as fast as FP32 in the same engine, turn by turn; null: FP32 was not timed"
    )
    repetitions: int = Field(ge=1)


class EvaluatedModel(Contract):
    """One row of the table."""

    name: str = Field(description="full precision, PTQ W4A8 deploy, QAT W4A8 deploy, ...")
    weights_sha256: str
    bits: str | None = Field(default=None, description="of a student and its files: W4A8 deploy, ...; null for others")
    calibrated: str | None = Field(
        default=None, description="of a trained student: the name of its row before training, where there is one"
    )
    label_mode: LabelMode | None = Field(default=None, description="null for the teacher")
    image_source: ImageSource | None = Field(default=None, description="null for the teacher")
    set_teacher_sha256: str | None = Field(
        default=None, description="checkpoint that a student's calibration set was made from; null: not recorded"
    )
    precision: AveragePrecision = Field(description="by the report's `measure`: accuracy, or agreement")
    agreement: tuple[AveragePrecision, ...] = Field(
        default=(), description="with full precision, on each of the report's `agreement_data`"
    )
    share_of_full_precision: float = Field(description="mAP50-95 as a share of the teacher's")
    per_class: dict[str, float] = Field(description="AP50-95 of each class with boxes in the data")
    seconds_per_image: float = Field(ge=0, description="forward pass and NMS, simulated quantization included")
    voc: VocPrecision | None = Field(default=None, description="where the data is Pascal VOC")
    precision_recall: PrecisionRecall | None = Field(default=None, description="null in reports of older versions")
    shapes: ShapePrecision | None = Field(
        default=None, description="by the report's `measure` too; null for heads of boxes, and data without such labels"
    )
    uncertainty: Uncertainty | None = Field(default=None, description="null where it was not estimated")
    deployed: DeploymentRecall | None = Field(default=None, description="null in reports of older versions")
    thresholds: tuple[MatchedThreshold, ...] = Field(
        default=(), description="of a student: what takes the place of the thresholds of full precision"
    )
    confidence_shift: ConfidenceShift | None = Field(default=None, description="of a student")
    class_changes: ClassChanges | None = Field(default=None, description="of a student, where intervals are known")
    file_bytes: int | None = Field(default=None, ge=1, description="size of the exported file; null: not exported")
    student: str | None = Field(default=None, description="of an exported file: the name of its student's row")
    target: Target | None = Field(default=None, description="of an exported file: the engine it is for")
    engine: str | None = Field(default=None, description="of an exported file: the engine that its boxes come from")
    census: Census | None = Field(default=None, description="of an exported file: what its engine runs in integers")
    latencies: tuple[Latency, ...] = Field(default=(), description="of the exported file, by engine and threads")
    throughput: tuple[Throughput, ...] = Field(default=(), description="of the exported file, by batch size")
    operator_times: tuple[OperatorTime, ...] = Field(
        default=(), description="of the exported file in its engine, most time first; empty: the engine does not tell"
    )


class EvalReport(Document):
    """Full precision and students side by side."""

    measure: Measure = Field(
        default=Measure.ACCURACY, description="agreement: no labelled image was there, and nothing here is accuracy"
    )
    data: ValidationData
    agreement_data: tuple[ValidationData, ...] = Field(
        default=(), description="further images without labels, on which agreement alone was measured"
    )
    class_labels: dict[str, ClassLabels] = Field(default={}, description="of each class with boxes in the data")
    models: tuple[EvaluatedModel, ...] = Field(min_length=1)
    detection_statistics: LabelStatistics | None = Field(
        default=None, description="of the teacher's confident detections, to hold a set's labels against"
    )
    samples: tuple[SamplePicture, ...] = Field(default=(), description="evenly spread over the data, never chosen")
    layer_gaps: tuple[LayerGap, ...] = Field(default=(), description="of each student, in the order of the rows")
    parts: Parts | None = Field(default=None, description="of the last student; null: not measured")
    set_check: SetCheck | None = Field(default=None, description="null: no calibration set was given")
    verdict: Verdict | None = Field(default=None, description="null: nothing was required")
    eval: EvalConfig
    provenance: Provenance
