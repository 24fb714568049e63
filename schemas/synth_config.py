"""Configuration of stage 1, label sampling and inversion. All defaults live here."""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from schemas.base import Contract
from schemas.image_size import LARGEST_SIDE, SMALLEST_SIDE, ImageSize, Sides
from schemas.teacher import TeacherSource


class LabelSource(StrEnum):
    """How the labels of synthetic images come about."""

    ADAPTIVE = "adaptive"
    """Start from one random box; the teacher adds and removes boxes while images form (arXiv 2507.16782)."""
    RANDOM = "random"
    """One random box per image."""
    TILE = "tile"
    """A 2 x 2 grid of boxes that fill the image."""
    MULTI = "multi"
    """Several random boxes that hardly overlap."""
    GIVEN = "given"
    """Boxes from a COCO JSON file, a folder of YOLO txt files or of Pascal VOC XML files, without their images."""


class LossWeights(Contract):
    """Weights of the terms of the inversion loss."""

    task: float = Field(default=0.5, ge=0, description="detection loss of the teacher, summed over images; paper 0.5")
    batch_norm: float = Field(default=0.05, ge=0, description="batch-norm statistics of every layer; paper 0.05")
    attention: float = Field(
        default=1.0,
        ge=0,
        description="without batch norm, in its place: entropy of patch similarity in attention; paper 1",
    )
    first_layer: float = Field(default=0.2, ge=0, description="the same at the first layer, on top; paper 5")
    total_variation: float = Field(default=0.03, ge=0, description="total variation; paper 0.002")


class ViewConfig(Contract):
    """What the teacher sees at each step: the images flipped, shifted and resized at random.

    Detail that survives only in one view cannot lower the loss, so objects come out as shapes instead of as
    imperceptible patterns. The published method is flip 0, shift 0, scales [1.0].
    """

    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a horizontal flip")
    shift: float = Field(default=0.05, ge=0, le=0.5, description="largest cyclic shift, share of the side")
    scales: tuple[float, ...] = Field(
        default=(0.8, 1.0, 1.2),
        min_length=1,
        strict=False,  # a run configuration is validated from plain Python values, where YAML's sequences are lists
        description="drawn uniformly; sides round to the teacher's stride",
    )

    @field_validator("scales")
    @classmethod
    def _usable(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0.25 <= scale <= 4 for scale in value):
            raise ValueError("each scale takes a value from 0.25 to 4")
        return value


class Initialisation(StrEnum):
    """What optimisation starts from."""

    NOISE = "noise"
    """Uniform noise, as published."""
    LOW_FREQUENCY = "low_frequency"
    """Smooth colour noise with a natural image's fall of energy with frequency."""
    SAMPLED = "sampled"
    """The images that label sampling ended with, enlarged; needs labels.source: adaptive."""


class LabelConfig(Contract):
    """How labels are sampled."""

    source: LabelSource = LabelSource.ADAPTIVE
    path: str | None = Field(
        default=None,
        description="for source: given: COCO JSON file, data.yaml, folder of YOLO txt or of Pascal VOC XML files",
    )
    size: int = Field(
        default=160,
        ge=64,
        le=1280,
        description="longer side of images while sampling, pixels, in the shape of image_size; paper 160",
    )
    initialisation: Literal[Initialisation.NOISE, Initialisation.LOW_FREQUENCY] = Initialisation.LOW_FREQUENCY
    iterations: int = Field(default=200, ge=1, le=100_000, description="optimisation steps per image")
    warm_up: int = Field(default=100, ge=0, description="steps before the teacher first relabels")
    interval: int = Field(default=50, ge=1, description="steps between relabellings; paper 100")
    confidence: float = Field(default=0.2, gt=0, lt=1, description="lowest score that adds a box; paper 0.2")
    overlap: float = Field(
        default=0.35, gt=0, lt=1, description="IoU with a current box below which one is new; paper 0.35"
    )
    min_area: float = Field(default=0.01, ge=0, lt=1, description="smallest box, share of the image; paper 0.01")
    max_area: float = Field(default=0.85, gt=0, le=1, description="largest box, share of the image; paper 0.85")
    batch: int = Field(default=16, ge=1, le=1024, description="images optimised together")
    learning_rate: float = Field(default=0.05, gt=0, description="Adam, cosine decay to 0; paper 0.2")
    weights: LossWeights = Field(
        default=LossWeights(task=0.06, batch_norm=0.5, first_layer=5.0, total_variation=0.02),
        description="batch norm outweighs the task here, so that objects nobody asked for may form and be labelled",
    )
    views: ViewConfig = ViewConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.source is LabelSource.GIVEN and not self.path:
            raise ValueError(
                "source is 'given' but path is not set: name a COCO JSON file or a folder of YOLO txt or VOC XML files"
            )
        if self.source is not LabelSource.GIVEN and self.path:
            raise ValueError(f"path is set but source is '{self.source}': set source to 'given' or leave path out")
        if self.min_area >= self.max_area:
            raise ValueError(f"min_area {self.min_area} must be below max_area {self.max_area}")
        if self.source is LabelSource.ADAPTIVE and max(self.warm_up, self.interval) > self.iterations:
            raise ValueError(
                f"warm_up {self.warm_up} or interval {self.interval} exceeds iterations {self.iterations}: "
                "nothing would be relabelled"
            )
        return self


LARGE_IMAGE = 512
"""Longer side from which images climb through resolutions by default, pixels."""


class InversionConfig(Contract):
    """How images are made for the labels."""

    iterations: int = Field(default=100, ge=1, le=100_000, description="optimisation steps per image; paper 3,000")
    learning_rate: float = Field(default=0.05, gt=0, description="Adam, cosine decay to 0; paper 0.2")
    initialisation: Initialisation | None = Field(
        default=None,
        description="null: sampled where label sampling makes images (source: adaptive), else low_frequency",
    )
    levels: tuple[float, ...] | None = Field(
        default=None,
        min_length=1,
        strict=False,  # see ViewConfig.scales
        description="sides that images are optimised at in turn, shares of image_size, an equal part of the iterations "
        f"each; rising to 1; null: [0.5, 0.5, 0.5, 1] from {LARGE_IMAGE} pixels (less than half the time), else [1]",
    )
    batch: int = Field(
        default=8, ge=1, le=1024, description="images optimised together; batch-norm terms see them as one"
    )
    weights: LossWeights = LossWeights()
    views: ViewConfig = ViewConfig()

    @field_validator("levels")
    @classmethod
    def _rising(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is None:
            return value
        if value[-1] != 1 or list(value) != sorted(value) or value[0] < 0.1:
            raise ValueError("takes values from 0.1 that rise to 1, as in [0.5, 1]")
        return value

    @model_validator(mode="after")
    def _enough_iterations(self) -> Self:
        if self.levels is not None and self.iterations < len(self.levels):
            raise ValueError(f"iterations {self.iterations} is less than one for each of the {len(self.levels)} levels")
        return self

    def levels_at(self, image_size: ImageSize) -> tuple[float, ...]:
        """The levels for images of a size, the default resolved."""
        if self.levels is not None:
            return self.levels
        return (0.5, 0.5, 0.5, 1.0) if image_size.longer >= LARGE_IMAGE else (1.0,)


class Precision(StrEnum):
    """What the teacher computes in while images form; images, losses and statistics stay float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    """Autocast: convolutions in bfloat16, for GPUs and CPUs that have it."""


HELD_BACK = 16
"""Images that are held back for evaluation, where there are no labelled ones."""
HELD_BACK_SEED = 1_000_003
"""What their seed has more than that of the set."""


class SynthConfig(Contract):
    """Stage 1: a calibration set from a teacher."""

    teacher: TeacherSource = TeacherSource()
    image_size: Annotated[ImageSize, Sides(SMALLEST_SIDE, LARGEST_SIDE)] | None = Field(
        default=None,
        description="pixels of a side of square images, or [height, width]; null: the teacher's own, a square",
    )
    images: int = Field(
        default=32, ge=1, le=1_000_000, description="16 to 256 made no difference that was measured, at W4A8"
    )
    held_back: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="images of another seed, in held-back/ below the set, which nothing is made with: eval measures "
        f"agreement on them; null: none, or in a run without labelled images {HELD_BACK}",
    )
    shard_size: int = Field(default=32, ge=1, le=100_000, description="images per shard, the unit of resumption")
    seed: int = Field(default=0, ge=0, lt=2**63)
    labels: LabelConfig = LabelConfig()
    inversion: InversionConfig = InversionConfig()
    precision: Precision = Field(
        default=Precision.FLOAT32,
        description="what the teacher computes in; never chosen by the device, since images depend on it",
    )
    tensorboard: bool = Field(default=False, description="write event files to tensorboard/ in the output folder")
    device: str = Field(default="auto", description="torch device; auto: cuda where there is one, else cpu")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.inversion.initialisation is Initialisation.SAMPLED and self.labels.source is not LabelSource.ADAPTIVE:
            raise ValueError(
                f"inversion.initialisation is 'sampled' but labels.source is '{self.labels.source}', which makes no "
                "images: set labels.source to 'adaptive' or inversion.initialisation to 'noise'"
            )
        return self

    @property
    def initialisation(self) -> Initialisation:
        """What inversion starts from, the default resolved."""
        if self.inversion.initialisation is not None:
            return self.inversion.initialisation
        adaptive = self.labels.source is LabelSource.ADAPTIVE
        return Initialisation.SAMPLED if adaptive else Initialisation.LOW_FREQUENCY

    def for_held_back(self) -> "SynthConfig | None":
        """The same settings for the images that are held back; None where there are none."""
        if not self.held_back:
            return None
        seed = (self.seed + HELD_BACK_SEED) % 2**63
        changes = {"images": self.held_back, "held_back": None, "seed": seed, "tensorboard": False}
        return self.model_copy(update=changes)

    def keyed(self) -> dict[str, Any]:
        """What decides the content of the set: all but locations (their digests count), the device and event files."""
        beside = {"device": True, "tensorboard": True, "held_back": True}
        return self.model_dump(mode="json", exclude=beside | {"teacher": {"path", "family"}, "labels": {"path"}})
