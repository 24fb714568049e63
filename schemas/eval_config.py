"""Configuration of stage 3, evaluation. All defaults live here."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Contract
from schemas.image_size import LARGEST_SIDE, SMALLEST_SIDE, ImageSize, Sides
from schemas.requirements import Requirements
from schemas.teacher import EMBEDDED, TeacherSource

EngineName = Literal["onnxruntime", "openvino", "litert"]
"""Engines that run exported models."""


class OnnxEvaluation(Contract):
    """What is done with the exported models of the students; nothing where no student folder holds one."""

    models: Literal["none", "students", "all"] = Field(
        default="all",
        description="students: their exported files, each in its engine; all: also the teacher, exported here as "
        "FP32 and FP16",
    )
    providers: tuple[str, ...] = Field(
        default=("CPUExecutionProvider",),
        min_length=1,
        strict=False,  # as in `ViewConfig`: a run configuration is validated from plain Python values
        description="onnxruntime execution providers, best first, for example CUDAExecutionProvider",
    )
    threads: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None,
        strict=False,
        description="thread counts to time; null: 1 and the number of usable cores",
    )
    batches: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        default=(1, 8),
        strict=False,
        description="batch sizes whose throughput is measured, with all usable cores; none: left out",
    )
    profile: bool = Field(default=True, description="time by kind of operator, as the engine's own profiler tells it")
    repetitions: int = Field(default=30, ge=1, le=100_000, description="timed runs of each model, engine, threads")


class EvalConfig(Contract):
    """Stage 3: what a student is worth: on labelled images, or without them how far it agrees with full precision."""

    teacher: TeacherSource = TeacherSource()
    data: str | None = Field(
        default=None,
        min_length=1,
        description="labelled images: COCO JSON file, data.yaml, folder with images/ and labels/ (YOLO), "
        "instances.json (COCO) or Annotations/ and JPEGImages/ (Pascal VOC), a list of images, a list in a VOC "
        "folder's ImageSets/Main, or `embedded`; null: none, agreement with the full-precision detector is measured "
        "(for the embedded detector: `embedded`)",
    )
    split: str | None = Field(
        default=None,
        min_length=1,
        pattern=r"^[^/\\]+$",
        description="which split of data that have several: a key of data.yaml, a folder below images/ (YOLO), or a "
        "list in ImageSets/Main (Pascal VOC); null: val, which Pascal VOC wants named",
    )
    images: str | None = Field(
        default=None, description="image folder of a COCO JSON; null: images/ beside it, or its own folder"
    )
    photos: str | None = Field(
        default=None, min_length=1, description="folder of unlabelled photographs, to measure agreement on"
    )
    allow_other_teacher: bool = Field(
        default=False, description="agreement: take held-back images that were made from other weights"
    )
    label_confidence: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="agreement: lowest score at which a detection of full precision stands for an object",
    )
    image_size: Annotated[ImageSize, Sides(SMALLEST_SIDE, LARGEST_SIDE)] | None = Field(
        default=None,
        description="letterboxed to a square of this side, pixels, or to [height, width]; null: the calibration set's",
    )
    batch: int = Field(default=16, ge=1, le=1024, description="images per forward pass")
    confidence: float = Field(default=0.001, ge=0, lt=1, description="lowest score kept; COCO practice 0.001")
    iou: float | None = Field(
        default=None, gt=0, le=1, description="NMS threshold; null: the family's own (Ultralytics 0.7)"
    )
    max_detections: int = Field(default=300, ge=1, le=10_000, description="boxes kept per image; Ultralytics val 300")
    samples: int = Field(
        default=6, ge=0, le=64, description="validation images shown in the report; 0: none, where they are private"
    )
    layer_images: int = Field(
        default=16,
        ge=0,
        le=1000,
        description="images of the calibration set, and of the data, on which each layer of a student is compared with "
        "full precision; 0: none, and labels of the set are not checked either",
    )
    advice_images: int = Field(
        default=64,
        ge=0,
        le=100_000,
        description="images, spread evenly over the data, on which the last student is measured with weights alone, "
        "activations alone, and with what might help; 0: none",
    )
    onnx: OnnxEvaluation = OnnxEvaluation()
    require: Requirements | None = Field(
        default=None, description="what the student must reach, else exit code 4; null: nothing is required"
    )
    device: str = Field(default="auto", description="torch device; auto: cuda where there is one, else cpu")

    @property
    def labelled_data(self) -> str | None:
        """The labelled images, the default resolved; None where agreement is measured."""
        if self.data is None and self.photos is None and self.teacher.path == EMBEDDED:
            return EMBEDDED
        return self.data
