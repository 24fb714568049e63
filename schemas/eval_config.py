"""Configuration of stage 3, evaluation. All defaults live here."""

from pydantic import Field

from schemas.base import Contract
from schemas.teacher import TeacherSource


class EvalConfig(Contract):
    """Stage 3: what a student is worth on real validation images."""

    teacher: TeacherSource = TeacherSource()
    data: str = Field(
        default="embedded",
        min_length=1,
        description="COCO JSON file, folder with images/ and labels/ (YOLO) or instances.json (COCO), or `embedded`",
    )
    images: str | None = Field(default=None, description="image folder of a COCO JSON; null: images/ beside it")
    image_size: int | None = Field(
        default=None, ge=32, le=4096, description="letterboxed to this square, pixels; null: the calibration set's"
    )
    batch: int = Field(default=16, ge=1, le=1024, description="images per forward pass")
    confidence: float = Field(default=0.001, ge=0, lt=1, description="lowest score kept; COCO practice 0.001")
    iou: float = Field(default=0.7, gt=0, le=1, description="NMS threshold; Ultralytics val 0.7")
    max_detections: int = Field(default=300, ge=1, le=10_000, description="boxes kept per image; Ultralytics val 300")
    samples: int = Field(
        default=6, ge=0, le=64, description="validation images shown in the report; 0: none, where they are private"
    )
    device: str = Field(default="auto", description="torch device; auto: cuda where there is one, else cpu")
