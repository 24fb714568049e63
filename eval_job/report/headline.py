"""What a reader wants first: the verdict, the table of models, and how far to trust them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eval_job.report.wording import PERCENT, number, percent, quantity
from schemas.calibration_set import ImageSource, LabelMode
from schemas.evaluation import EvalReport, EvaluatedModel, Interval, Measure, ValidationData

FEW_IMAGES = 1000
"""Below this many validation images a reader is warned; COCO val2017 has 5,000."""
STYLES = 7
"""Number of model colours in the style sheet; `c0` is full precision."""

LABEL_MODES = {
    LabelMode.SAMPLED: "sampled by the detector itself: nobody's labels were used",
    LabelMode.GIVEN: "given: somebody's labels were used",
}
DATA_KINDS = {"rendered": "rendered scenes", "photos": "photographs without labels", "synthetic": "synthetic images"}
"""What images of a format are; those of other formats are labelled images."""
IMAGE_SOURCES = {
    ImageSource.SYNTHESIZED: "synthesized from the checkpoint: no real image was used",
    ImageSource.NOISE: "uniform noise: a baseline",
    ImageSource.REAL: "real images: a baseline, not a zero-shot result",
}


@dataclass(frozen=True)
class Fact:
    """A short statement under the verdict; `warns` where a reader could take the result for something else."""

    term: str
    text: str
    warns: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the table of models."""

    name: str
    style: str
    map50_95: str
    interval: str
    map50: str
    voc: tuple[str, str] | None
    """AP50 by VOC's 11-point and all-point definitions."""
    shapes: tuple[str, str] | None
    """AP50-95 and AP50 of what the head says beside boxes."""
    share: str
    share_bar: float | None
    """0 to 1, for the bar."""
    share_interval: str
    agreement: tuple[str, ...]
    """On each of the report's further data."""
    size: str
    latency: str


def style_of(index: int) -> str:
    """Class of a model's colour in the style sheet, by its place in the report."""
    return "c0" if index == 0 else f"c{(index - 1) % (STYLES - 1) + 1}"


def headline_model(report: EvalReport) -> EvaluatedModel:
    """The model that the page is about: the last student as it was exported first, or full precision alone."""
    students = [model for model in report.models if model.label_mode is not None and model.file_bytes is None]
    if not students:
        return report.models[0]
    return next((model for model in report.models if model.student == students[-1].name), students[-1])


def verdict(report: EvalReport) -> tuple[str, str]:
    """The verdict in a line, and the sentences that belong to it."""
    if report.measure is Measure.AGREEMENT:
        return _verdict_of_agreement(report)
    full, model = report.models[0], headline_model(report)
    data = report.data
    where = f"on {quantity(data.images, 'rendered' if data.format == 'rendered' else 'validation')} images"
    where = f"{where} at {data.image_size} pixels"
    if model is full:
        return (
            f"Full precision alone: mAP50-95 {number(full.precision.map50_95)}",
            f"Measured {where}. No student was evaluated.",
        )
    sentences = (
        f"mAP50-95 {number(model.precision.map50_95)} against {number(full.precision.map50_95)} "
        f"of the full-precision detector, {where}."
    )
    if before := _before_training(report, model):
        sentences += f" Calibration alone (PTQ) keeps {percent(before.share_of_full_precision)}."
    if len({each.bits for each in report.models if each.label_mode is not None}) > 1:
        sentences += " The other students are in the table."
    return f"{model.name} keeps {percent(model.share_of_full_precision)} of full precision", sentences


def _verdict_of_agreement(report: EvalReport) -> tuple[str, str]:
    full, model = report.models[0], headline_model(report)
    if model is full:
        return "Full precision alone", "No student was evaluated, so there is no agreement to speak of."
    sentences = (
        f"Agreement, not accuracy: mAP50-95 {number(model.precision.map50_95)} against what the full-precision "
        f"detector finds itself, on {_images_of(report.data)} at {report.data.image_size} pixels."
    )
    if before := _before_training(report, model):
        sentences += f" Calibration alone (PTQ) agrees to {percent(before.precision.map50_95)}."
    return f"{model.name} agrees to {percent(model.precision.map50_95)} with full precision", sentences


def _before_training(report: EvalReport, model: EvaluatedModel) -> EvaluatedModel | None:
    """The row of a student, or of the student that a file was made from, before it was trained."""
    rows = {each.name: each for each in report.models}
    student = rows.get(model.student, model) if model.student else model
    return rows.get(student.calibrated) if student.calibrated else None


def _images_of(data: ValidationData) -> str:
    kind = DATA_KINDS.get(data.format, "labelled images")
    held_back = "held-back " if data.format == "synthetic" else ""
    return f"{quantity(data.images)} {held_back}{kind}"


def facts(report: EvalReport) -> list[Fact]:
    """Label mode, image source and validation data, where nobody can miss them."""
    students = [model for model in report.models if model.label_mode is not None]
    modes = list(dict.fromkeys(model.label_mode for model in students if model.label_mode))
    sources = list(dict.fromkeys(model.image_source for model in students if model.image_source))
    found = []
    if modes:
        warns = LabelMode.GIVEN in modes
        found.append(Fact("Labels", "; ".join(LABEL_MODES[mode] for mode in modes), warns))
    if sources:
        warns = ImageSource.REAL in sources
        found.append(Fact("Calibration images", "; ".join(IMAGE_SOURCES[source] for source in sources), warns))
    data = report.data
    if report.measure is Measure.ACCURACY:
        return [*found, Fact("Validation", f"{_images_of(data)} with {quantity(data.boxes)} boxes, only measured on")]
    text = (
        f"agreement with full precision on {_images_of(data)}: its {quantity(data.boxes)} detections of score "
        f"{data.label_confidence or 0:.2g} and above stand for labels"
    )
    return [*found, Fact("Measured", text, warns=True)]


def rows(models: Sequence[EvaluatedModel]) -> list[Row]:
    """The table of models."""
    return [
        Row(
            name=model.name,
            style=style_of(index),
            map50_95=number(model.precision.map50_95),
            interval=_interval(model.uncertainty.map50_95 if model.uncertainty else None, number),
            map50=number(model.precision.map50),
            voc=(number(model.voc.eleven_point), number(model.voc.all_point)) if model.voc else None,
            shapes=(
                (number(model.shapes.precision.map50_95), number(model.shapes.precision.map50))
                if model.shapes
                else None
            ),
            share="" if index == 0 else percent(model.share_of_full_precision),
            share_bar=None if index == 0 else min(max(model.share_of_full_precision, 0.0), 1.0),
            share_interval=_interval(model.uncertainty.share if model.uncertainty else None, percent),
            agreement=tuple(number(each.map50_95) for each in model.agreement),
            size=f"{model.file_bytes / 1e6:.2f}\u202fMB" if model.file_bytes else "",
            latency=(f"{min(each.median_ms for each in model.latencies):.1f}\u202fms" if model.latencies else ""),
        )
        for index, model in enumerate(models)
    ]


def caveats(report: EvalReport, seeds: Sequence[int]) -> list[str]:
    """How far to trust the numbers, in sentences."""
    data, model = report.data, headline_model(report)
    said = _caveats_of_agreement(report) if report.measure is Measure.AGREEMENT else []
    if data.format == "rendered":
        said.append(
            "The validation scenes are rendered, not photographed: they show that the pipeline works, not what a "
            "detector would reach on real images."
        )
    if model.voc:
        said.append(
            "VOC AP50 is by the definitions of Pascal VOC: precision at 11 recalls (2007), and the area under the "
            "curve (2010 and later). Objects marked difficult neither count nor hurt, there and in mAP."
        )
    if data.images < FEW_IMAGES:
        kind = "validation images" if report.measure is Measure.ACCURACY else "images"
        said.append(
            f"{quantity(data.images)} {kind} are few (COCO val2017 has 5,000): read nothing into small differences."
        )
    if model.uncertainty:
        text = (
            "The ranges in the table are 95\u202f% intervals from a bootstrap over the images "
            f"({model.uncertainty.resamples} resamples, the same for every model): what as many other images of the "
            "same kind might have shown. Where many classes are rare they are somewhat too narrow."
        )
        share = model.uncertainty.share
        if report.measure is Measure.ACCURACY and share and share.low <= 1 <= share.high:
            text += f" On these images {model.name} cannot be told apart from full precision."
        said.append(text)
    full = report.models[0].weights_sha256
    if other := sorted({each.set_teacher_sha256 for each in report.models if each.set_teacher_sha256} - {full}):
        said.append(
            f"A calibration set was made from another teacher (sha256 {other[0][:12]}…, the one evaluated here is "
            f"{full[:12]}…): what its weights kept of their training images is not what these kept."
        )
    if model.label_mode is not None:
        named = f" (seed {', '.join(map(str, seeds))})" if seeds else ""
        said.append(
            f"Every student is a single run with one seed{named}. Another seed gives another number, and no range here "
            "covers that."
        )
        said.append(
            "Students are measured with simulated quantization in floating point. Rows that name an engine are the "
            "exported file itself, in that engine."
        )
    return said


def _caveats_of_agreement(report: EvalReport) -> list[str]:
    said = [
        "Every figure here is agreement: how far a model finds what the full-precision detector finds, right or wrong. "
        "Labelled images of what the detector will meet would make it accuracy: name them with zsq run --data, or as "
        "eval.data."
    ]
    if report.data.format == "synthetic":
        said.append(
            "The images were made from the detector itself, with another seed than the calibration set, and no student "
            "was made with them. They show how much alike two models are, not what either does on photographs; "
            "unlabelled photographs (zsq run --photos) come closer."
        )
    return said


def _interval(interval: Interval | None, form: Callable[[float], str]) -> str:
    """Both ends, the unit once."""
    return f"{form(interval.low).removesuffix(PERCENT)}–{form(interval.high)}" if interval else ""
