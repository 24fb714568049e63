"""Detectors at the confidence threshold that they are deployed with: recall, precision, and how scores moved."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Contract

DEPLOYED = (0.25, 0.5)
"""Confidence thresholds of full precision that students are matched to; the first one is what most tools ship with."""
Share = Annotated[float, Field(ge=0, le=1)]


class OperatingPoint(Contract):
    """A detector at a confidence threshold, at IoU 0.50, all classes together."""

    threshold: float = Field(ge=0, le=1, description="lowest score of a detection that counts")
    recall: Share = Field(description="share of the objects that are found")
    precision: Share | None = Field(description="share of the detections that are right; null: there are none")
    boxes: int = Field(ge=0, description="detections, those of crowd regions excepted")


class MatchedThreshold(Contract):
    """The threshold of a student that takes the place of one of full precision."""

    by: Literal["recall", "precision", "boxes"] = Field(description="which figure of full precision it gives again")
    full_precision: OperatingPoint
    unchanged: OperatingPoint = Field(description="the student at the threshold of full precision")
    matched: OperatingPoint | None = Field(description="the student at its own; null: no threshold gives the figure")


class ConfidenceShift(Contract):
    """How the score of an object that full precision is sure of changes in a student."""

    confidence: float = Field(ge=0, le=1, description="lowest score of the full-precision detections that are compared")
    pairs: int = Field(ge=0, description="of them, those where the student has a box of the class with IoU >= 0.5")
    missed: int = Field(ge=0, description="of them, those where it has none")
    mean: float = Field(description="score of the student less that of full precision, mean over pairs; 0 without any")
    low: float = Field(description="its 5th percentile")
    high: float = Field(description="its 95th percentile")
    per_class: dict[str, float] = Field(description="mean of each class with pairs")
    pairs_per_class: dict[str, int]


class DeploymentRecall(Contract):
    """What a model finds at the first of the deployed thresholds, at IoU 0.50."""

    point: OperatingPoint
    small: Share | None = Field(description="recall of objects below 32 x 32 pixels; null: there are none")
    medium: Share | None = Field(description="32 x 32 to 96 x 96 pixels")
    large: Share | None = Field(description="above 96 x 96 pixels")
    per_class: dict[str, float] = Field(description="recall of each class with objects")


class ClassChange(Contract):
    """A class whose average precision changed by more than chance explains."""

    name: str
    change: float = Field(description="AP50-95 less that of full precision")
    low: float = Field(description="95 % interval of the change, from the paired bootstrap over images")
    high: float
    p_value: Share


class ClassChanges(Contract):
    """Classes that were tested, and those that changed."""

    tested: int = Field(ge=0, description="classes that occur on enough images to be told from chance")
    least_images: int = Field(ge=1, description="that many are enough")
    false_discovery_rate: float = Field(gt=0, lt=1, description="expected share of false ones among those named")
    changed: tuple[ClassChange, ...] = Field(description="most lost first")


class ClassLabels(Contract):
    """How much there is of a class in the data."""

    boxes: int = Field(ge=1)
    images: int = Field(ge=1)
