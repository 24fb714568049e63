"""The calibration set: shards of synthetic images with labels, and the manifest that makes them a whole."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.base import Contract, Document, canonical_digest
from schemas.errors import InputError
from schemas.image_size import LARGEST_SIDE, SMALLEST_SIDE, ImageSize, Sides
from schemas.labels import ImageLabels
from schemas.privacy import PrivacyRecord
from schemas.provenance import Provenance
from schemas.synth_config import SynthConfig
from schemas.teacher import TeacherIdentity

MANIFEST = "manifest.json"
HELD_BACK_FOLDER = "held-back"
"""Sub-folder of a set with images of another seed, which nothing is made with: a set of its own."""
AREA_EDGES = (0.0, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0)
"""Bin edges of the box-area histogram, as shares of the image area."""
POSITION_CELLS = 4
"""Side of the grid on which box centres are counted."""

Count = Annotated[int, Field(ge=0)]
Row = Annotated[tuple[Count, ...], Field(min_length=POSITION_CELLS, max_length=POSITION_CELLS)]


class LabelMode(StrEnum):
    """Whether anyone's labels were used; visible to whoever receives the set."""

    SAMPLED = "sampled"
    GIVEN = "given"


class ImageSource(StrEnum):
    """What the images are. Only `synthesized` sets come out of a zero-shot run; the others are baselines."""

    SYNTHESIZED = "synthesized"
    NOISE = "noise"
    REAL = "real"


class LabelStatistics(Contract):
    """How the labels of a set are distributed."""

    images: int = Field(ge=0)
    boxes: int = Field(ge=0)
    boxes_per_image: float = Field(ge=0)
    class_histogram: dict[str, Count] = Field(description="boxes of each class that occurs, most frequent first")
    area_histogram: tuple[Count, ...] = Field(
        min_length=len(AREA_EDGES) - 1,
        max_length=len(AREA_EDGES) - 1,
        description=f"boxes by share of the image area, edges {AREA_EDGES}",
    )
    position_histogram: tuple[Row, ...] = Field(
        min_length=POSITION_CELLS,
        max_length=POSITION_CELLS,
        description=f"box centres on a {POSITION_CELLS} x {POSITION_CELLS} grid, rows from the top",
    )
    origin_histogram: dict[str, Count] = Field(description="boxes of each origin")

    @classmethod
    def of(cls, labels: list[ImageLabels], class_names: tuple[str, ...]) -> "LabelStatistics":
        """Statistics of the labels of a whole set."""
        classes: dict[str, int] = {}
        origins: dict[str, int] = {}
        areas = [0] * (len(AREA_EDGES) - 1)
        positions = [[0] * POSITION_CELLS for _ in range(POSITION_CELLS)]
        for image in labels:
            for box in image.boxes:
                x, y, w, h = box.bbox
                name = class_names[box.category_id]
                classes[name] = classes.get(name, 0) + 1
                origins[box.origin.value] = origins.get(box.origin.value, 0) + 1
                share = w * h / (image.width * image.height)
                areas[min(sum(share >= edge for edge in AREA_EDGES[1:]), len(areas) - 1)] += 1
                column = int((x + w / 2) / image.width * POSITION_CELLS)
                row = int((y + h / 2) / image.height * POSITION_CELLS)
                positions[min(max(row, 0), POSITION_CELLS - 1)][min(max(column, 0), POSITION_CELLS - 1)] += 1
        boxes = sum(areas)
        return cls(
            images=len(labels),
            boxes=boxes,
            boxes_per_image=boxes / len(labels) if labels else 0.0,
            class_histogram=dict(sorted(classes.items(), key=lambda item: (-item[1], item[0]))),
            area_histogram=tuple(areas),
            position_histogram=tuple(tuple(row) for row in positions),
            origin_histogram=dict(sorted(origins.items())),
        )


class AveragePrecision(Contract):
    """COCO mean average precision by pycocotools, 0 to 1; -1 where no box of that kind exists."""

    map50_95: float = Field(ge=-1, le=1)
    map50: float = Field(ge=-1, le=1)
    map75: float = Field(ge=-1, le=1)
    map_small: float = Field(ge=-1, le=1)
    map_medium: float = Field(ge=-1, le=1)
    map_large: float = Field(ge=-1, le=1)


class DivergedBatch(Contract):
    """An attempt at a batch of images that did not stay finite and was made again from other random numbers."""

    phase: Literal["label sampling", "inversion"]
    samples: tuple[int, ...] = Field(min_length=1, description="indices, in the whole set, of the images concerned")
    step: int = Field(ge=1, description="iteration at which it was noticed")
    attempt: int = Field(ge=0, description="0: the first; enters the random numbers of the next")


class ShardRecord(Document):
    """One tar of the set; also stored beside it as `<shard>.json`."""

    file: str = Field(pattern=r"^calib-[0-9]{6}\.tar$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=1)
    samples: int = Field(ge=1)
    first_sample: int = Field(ge=0, description="index of the first sample in the whole set")
    seed: int = Field(ge=0, description="the set's seed; a sample's randomness comes from (seed, sample index)")
    key: str = Field(description="provenance key of the run that wrote the shard")
    diverged: tuple[DivergedBatch, ...] = Field(default=(), description="attempts at its images that were discarded")


class SetSource(Contract):
    """A set that another one was made of, as its own manifest described it."""

    digest: str = Field(pattern="^[0-9a-f]{64}$", description="digest of the set's content")
    samples: int = Field(ge=0, description="how many of its samples were taken")
    first_sample: int = Field(ge=0, description="index that the first of them has now; the others follow in order")
    teacher_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="digest of its teacher's checkpoint file")
    label_mode: LabelMode
    image_source: ImageSource
    synth: SynthConfig | None
    seed: int = Field(ge=0)
    provenance: Provenance
    licence: str
    sources: tuple["SetSource", ...] = Field(default=(), description="what this one was made of, where it was")


LOW_AGREEMENT = 0.1
"""mAP50 of the teacher on a set's images below which they hardly show what their labels say. Sets of YOLO11n made with
default settings have more than 0.9."""


class CalibrationSetManifest(Document):
    """`manifest.json`: its presence means the set is whole."""

    teacher: TeacherIdentity
    label_mode: LabelMode
    image_source: ImageSource = ImageSource.SYNTHESIZED
    synth: SynthConfig | None = Field(description="how it was synthesized; null for a set made of others: see sources")
    image_size: Annotated[ImageSize, Sides(SMALLEST_SIDE, LARGEST_SIDE)] = Field(
        description="pixels of a side of square images, or [height, width]"
    )
    seed: int = Field(ge=0, description="of a set made of others, the first one's")
    shards: tuple[ShardRecord, ...] = Field(min_length=1)
    statistics: LabelStatistics
    teacher_agreement: AveragePrecision | None = Field(
        description="the teacher's mAP on the stored, decoded images against their labels; null where there are none, "
        "or where nobody measured it"
    )
    provenance: Provenance
    sources: tuple[SetSource, ...] = Field(default=(), description="the sets that this one was made of, in order")
    licence: str = Field(
        default="Synthetic images derived from the teacher's weights; the teacher's licence may extend to them.",
        description="licence note for whoever receives the set",
    )
    privacy: PrivacyRecord | None = Field(
        default=None,
        description="what comparing the images with real ones showed, where their owner had it recorded; left out of "
        "the file where nobody did, so that releases from before there was such a record read the set",
    )

    @model_validator(mode="after")
    def _each_shard_once(self) -> Self:
        files = [shard.file for shard in self.shards]
        if len(set(files)) != len(files):
            raise ValueError("names a shard more than once")
        return self

    def to_json(self) -> str:
        """See `Contract.to_json`; without `privacy` where there is no record."""
        return self.model_dump_json(indent=2, exclude=None if self.privacy else {"privacy"}) + "\n"

    @property
    def digest(self) -> str:
        """Digest of the set's content: its teacher and the digests of its shards, in order."""
        return canonical_digest({"teacher": self.teacher.sha256, "shards": [shard.sha256 for shard in self.shards]})

    @property
    def samples(self) -> int:
        """Number of images."""
        return sum(shard.samples for shard in self.shards)

    @property
    def doubt(self) -> str | None:
        """Why the images may teach little, in one line; None where nothing speaks for that."""
        agreement = self.teacher_agreement
        if agreement is None or not 0 <= agreement.map50 < LOW_AGREEMENT:
            return None
        return (
            f"the teacher sees few of the labels in these images (teacher agreement: mAP50 {agreement.map50:.3f}): a "
            "student made with them may be worth little; look at the contact sheet and raise synth.inversion.iterations"
        )

    def check_made_from(self, teacher_sha256: str, folder: Path, *, allow_other: bool) -> None:
        """Check that the images came out of these weights.

        Args:
            teacher_sha256: digest of the teacher's checkpoint.
            folder: of the set, named in the error.
            allow_other: leave to use a set of other weights.

        Raises:
            InputError: they came out of others.
        """
        made_from = self.teacher.sha256
        if made_from != teacher_sha256 and not allow_other:
            raise InputError(
                f"{folder}: was made from another teacher (sha256 {made_from[:12]}…, this one is "
                f"{teacher_sha256[:12]}…); make a set of this one, or set allow_other_teacher: true (qat and eval) to "
                "take it all the same"
            )


def shard_record_path(folder: Path, file: str) -> Path:
    """Where the `ShardRecord` of shard `file` lies."""
    return folder / f"{file.removesuffix('.tar')}.json"
