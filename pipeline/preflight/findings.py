"""What the checks before a run found, as one JSON document, and how it reads for a person."""

from typing import Annotated, Self

from pydantic import Field

from schemas.base import Document
from schemas.files import expanded
from schemas.image_size import SMALLEST_SIDE, ImageSize, Sides
from schemas.planned_bits import SAFE_BITS
from schemas.run_config import RunConfig
from schemas.teacher import EMBEDDED, Family


class Findings(Document):
    """A run that can start: its detector, its data and what it costs."""

    family: Family
    classes: int = Field(ge=1)
    parameters: int = Field(ge=1)
    image_size: Annotated[ImageSize, Sides(SMALLEST_SIDE)]
    own_size: bool = Field(description="whether that is the size that the detector was trained at")
    labelled_images: int | None = Field(description="null: none, agreement is measured")
    photos: int | None
    bytes_needed: int = Field(ge=0, description="of storage, about")
    bytes_free: int = Field(ge=0)
    seconds: dict[str, float] = Field(description="expected time of each stage, measured on this machine")
    done: tuple[str, ...] = Field(default=(), description="stages that are up to date and take no time")

    def with_finished(self, done: tuple[str, ...]) -> Self:
        """The same where some stages are done already and take no time."""
        left = {stage: 0.0 if stage in done else seconds for stage, seconds in self.seconds.items()}
        return self.model_copy(update={"done": done, "seconds": left})


def described(findings: Findings, config: RunConfig, max_drop: float | None = None) -> list[tuple[str, str]]:
    """What a run will do and how long it takes, as pairs of a term and a text.

    Args:
        findings: what was found out about the run.
        config: of the run.
        max_drop: points that may be lost, where bits are searched for.
    """
    qat, synth = config.qat, config.for_stage("synth")
    steps = "none" if qat.ptq_only else f"{qat.training_steps} steps"
    if qat.steps == "auto" and not qat.ptq_only:
        steps += ", left out where calibration alone is enough"
    held_back = getattr(synth, "held_back", None)
    made = f"{config.synth.images} synthetic images" + (f", {held_back} more held back" if held_back else "")
    size = findings.image_size.in_words + (" (what the detector was trained at)" if findings.own_size else "")
    student = f"{qat.bits.name}, training: {steps}"
    could_be_planned = qat.planned_widths[0] <= qat.bits.weight_bits < SAFE_BITS
    if could_be_planned and not (qat.bits.layers or qat.plans_bits):
        instead = f"--bits w8a{qat.bits.activation_bits} --budget {qat.bits.weight_bits + 0.5:g}"
        student += f"; planned bits keep more: {instead}"
    if qat.sensitivity is not None and qat.sensitivity.budget is not None:
        widths = " or ".join(str(bits) for bits in qat.planned_widths)
        student = (
            f"at most {qat.sensitivity.budget:g} weight bits in the mean ({widths} a layer, as it is sensitive), "
            f"A{qat.bits.activation_bits}, training: {steps}"
        )
    if max_drop is not None:
        student = (
            f"the fewest weight bits that lose at most {max_drop:g} points (A{qat.bits.activation_bits}, calibrated "
            "alone); the weight bits that are set are not used"
        )
    of_one = ", of one student; several are tried" if max_drop is not None else ""
    total = duration(sum(findings.seconds.values()))
    parts = ", ".join(
        f"{stage} {'up to date' if stage in findings.done else duration(seconds)}"
        for stage, seconds in findings.seconds.items()
    )
    return [
        (
            "detector",
            f"{config.teacher.path}: {findings.family}, {findings.classes} classes, "
            f"{findings.parameters / 1e6:.1f} M parameters",
        ),
        ("image size", size),
        ("student", student),
        ("calibration set", made),
        ("evaluation", _evaluation(findings, config)),
        (
            "output",
            f"{expanded(config.storage)}, about {gigabytes(findings.bytes_needed)} of "
            f"{gigabytes(findings.bytes_free)} free",
        ),
        ("time", f"about {total} on this machine ({parts}){of_one}"),
    ]


def duration(seconds: float) -> str:
    """Roughly: seconds below two minutes, else minutes or hours."""
    if seconds < 120:
        return f"{max(round(seconds), 1)} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def gigabytes(size: int) -> str:
    """Bytes as GB."""
    return f"{size / 1e9:.2f} GB"


def _evaluation(findings: Findings, config: RunConfig) -> str:
    photos = f"{findings.photos} photographs" if findings.photos else ""
    if findings.labelled_images is not None:
        data = config.eval.labelled_data
        kind = "rendered scenes" if data == EMBEDDED else f"labelled images of {data}"
        return f"mAP on {findings.labelled_images} {kind}" + (f", agreement on {photos}" if photos else "")
    on = f"{photos} and the held-back images" if photos else "the held-back images"
    return f"agreement with full precision on {on} (no labelled images: --data names some)"
