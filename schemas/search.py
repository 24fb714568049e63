"""What was tried to find the smallest student within an allowed loss: `search.json`, beside the student."""

from pydantic import Field

from schemas.base import Contract, Document
from schemas.evaluation import Measure

SEARCH = "search.json"


class Tried(Contract):
    """A student that was calibrated and measured."""

    mean_weight_bits: float = Field(ge=2, le=8, description="allowed mean over all quantized weights")
    student_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of its weights")
    map50_95: float = Field(ge=0, le=1, description="by the search's `measure`")
    drop: float = Field(description="points of mAP50-95 below full precision")
    holds: bool = Field(description="whether the drop is within what is allowed")


class SearchReport(Document):
    """A budget instead of bits: the students that were tried, in order, and which one is kept."""

    measure: Measure
    data_digest: str = Field(description="of the images that students were measured on")
    max_drop: float = Field(gt=0, description="points of mAP50-95 that may be lost")
    full_precision: float = Field(ge=0, le=1, description="mAP50-95 of the teacher")
    tried: tuple[Tried, ...] = Field(min_length=1)
    kept: str = Field(pattern="^[0-9a-f]{64}$", description="weights of the student that is kept, one of those tried")
