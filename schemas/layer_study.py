"""Where a student loses: layer by layer on synthetic and on real images, by weights and activations, and what helps."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Contract

Decibels = Annotated[float, Field(ge=-200, le=200)]


class Fidelity(Contract):
    """How close a layer's output is to that of the full-precision detector, over some images."""

    snr_db: Decibels = Field(description="power of the full-precision output over that of the difference, decibels")
    cosine: float = Field(ge=-1, le=1, description="cosine of the two outputs")


class LayerFidelity(Contract):
    """One quantized layer, in the order of the network; its input carries what the layers before it lost."""

    name: str = Field(description="module path")
    calibration: Fidelity | None = Field(description="on images of the calibration set; null: none was given")
    real: Fidelity | None = Field(description="on photographs, labelled or not; null: there were none")


class LayerGap(Contract):
    """The synthetic-to-real gap of one student."""

    model: str = Field(description="name of its row")
    calibration_images: int = Field(ge=0)
    real_images: int = Field(ge=0)
    layers: tuple[LayerFidelity, ...] = Field(min_length=1)


class Remedy(Contract):
    """A change of settings, tried without training: weights rounded anew from full precision, other quantizers kept."""

    kind: Literal["activations", "weights", "layers", "mixed"]
    settings: tuple[str, ...] = Field(min_length=1, description="`key=value` of qat, as --set takes them")
    mean_weight_bits: float = Field(ge=2, le=8)
    map50_95: float = Field(description="with weights rounded plainly, on the same images")
    recovered: float = Field(description="share of what plain rounding loses that it gives back")


class Parts(Contract):
    """What a student loses by its weights and by its activations, mAP50-95 by the report's measure."""

    model: str = Field(description="name of its row")
    images: int = Field(ge=1, description="images that this was measured on, spread evenly over the data")
    full_precision: float
    student: float
    weights_only: float = Field(description="its weights, activations in float")
    activations_only: float = Field(description="weights of full precision, its activations")
    plainly_rounded: float | None = Field(
        default=None, description="weights rounded anew from full precision at its bits; null: no remedy was tried"
    )
    remedies: tuple[Remedy, ...] = Field(default=(), description="those that recover most first")


class SetImage(Contract):
    """An image of the calibration set, and what the full-precision detector sees of its labels."""

    index: int = Field(ge=0, description="place in the set, from 0")
    labels: int = Field(ge=0, description="number of its labels")
    found: float | None = Field(ge=0, le=1, description="share of its labels that the detector finds; null: no label")
    failed: tuple[int, ...] = Field(description="indices of the labels that it does not see")


class SetCheck(Contract):
    """Labels of the calibration set that the full-precision detector sees again in the stored images."""

    set_digest: str
    confidence: float = Field(gt=0, lt=1, description="lowest score of a detection that counts; IoU >= 0.5, same class")
    images: tuple[SetImage, ...] = Field(description="spread evenly over the set")
