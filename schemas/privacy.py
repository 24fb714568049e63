"""What comparing a set with real images showed: `privacy.json`, and the short record in a set's manifest."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Contract, Document

PRIVACY = "privacy.json"
NEAREST_PAIRS = "nearest.png"
METHOD = "nearest images, 1"
"""Name and version of the method, so that nobody compares figures of two of them."""
LARGEST_DISTANCE = 2.0
"""Of two vectors of length one."""

MeasureName = Literal["pixels", "features"]
"""`pixels`: small grey thumbnails and parts of them. `features`: outputs of a network that is not the teacher."""
Distance = Annotated[float, Field(ge=0, le=LARGEST_DISTANCE)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Verdict(StrEnum):
    """What the comparison says. None of these says that a set is private."""

    NOTHING_FOUND = "no copy found"
    COPIES = "looks like copies"
    INCONCLUSIVE = "inconclusive"
    """Nothing was found, but the check missed too many of the copies that it planted itself."""


class PlantedCopies(Contract):
    """Altered copies of the real images that the check made itself, to see whether it finds them."""

    kind: str = Field(description="what was done to a real image")
    planted: int = Field(ge=1)
    found: int = Field(ge=0)


class RealDistances(Contract):
    """How near real images are to each other by one measure: what is called near is measured on them."""

    measure: MeasureName
    network: Digest | None = Field(default=None, description="digest of the network behind features")
    images: int = Field(ge=2, description="real images whose nearest other real image was looked for")
    median: Distance = Field(description="of the distance from a real image to its nearest other one")
    near: Distance = Field(description="a synthetic image nearer than this to a real one looks like a copy of it")
    near_each_other: float = Field(ge=0, le=1, description="share of real images that are that near to another one")
    ratio: float = Field(
        ge=0,
        le=1,
        description="nearest by second nearest distance; an image below it that is nearer than the median looks like "
        "a copy, too: one real image stands out",
    )


class NearestImage(Contract):
    """The real image that is nearest to a synthetic one by one measure."""

    measure: MeasureName
    image: str = Field(description="path within the folder of real images")
    distance: Distance
    ratio: float = Field(ge=0, le=1, description="distance to the nearest by distance to the second nearest real image")
    copy_like: bool


class ComparedSample(Contract):
    """One synthetic image."""

    sample: int = Field(ge=0, description="position in the set")
    nearest: tuple[NearestImage, ...] = Field(min_length=1, description="one of each measure")

    @property
    def copy_like(self) -> bool:
        """Whether it looks like a copy by any measure."""
        return any(each.copy_like for each in self.nearest)


class PrivacyRecord(Contract):
    """What a set's manifest says of the comparison, where its owner asked for that. It names no real image."""

    method: str
    verdict: Verdict
    images: int = Field(ge=1, description="synthetic images, all of the set")
    copy_like: int = Field(ge=0, description="synthetic images that look like copies of real ones")
    real_images: int = Field(ge=1, description="real images they were compared with")
    measures: tuple[MeasureName, ...] = Field(min_length=1)
    planted: tuple[PlantedCopies, ...] = Field(description="how sharp the check was on these real images")
    created: datetime
    code_version: str


class PrivacyReport(Document):
    """`privacy.json`: for the owner of the real images alone, whose file names it holds."""

    set_digest: Digest
    record: PrivacyRecord
    left_out: tuple[str, ...] = Field(default=(), description="files in the folder that were not compared")
    real: tuple[RealDistances, ...] = Field(min_length=1)
    samples: tuple[ComparedSample, ...] = Field(min_length=1)
