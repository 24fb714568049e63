"""Precision over recall of every model, average precision class by class, and how training went."""

from dataclasses import dataclass

from markupsafe import Markup

from eval_job.report.artifacts import StudentArtifacts
from eval_job.report.charts import Axis, Series, line_chart, linear_axis, moving_mean
from eval_job.report.headline import headline_model, style_of
from eval_job.report.wording import duration, quantity, short
from schemas.evaluation import EvalReport
from schemas.student import TrainingComparison, TrainingMethod, TrainingSummary

SCALES = "a scale per channel, biases and the quantizers of activations; weights keep the integers of calibration"


@dataclass(frozen=True)
class ClassPrecision:
    """AP50-95 of a class with full precision and with a student.

    Attributes:
        name: of the class.
        full: with full precision.
        student: with the student.
        boxes: labels in the data; None where it is not known.
        recalls: of both at the deployment threshold; None where it was not measured.
        beyond_chance: whether the change is more than the choice of images explains.
    """

    name: str
    full: float
    student: float
    boxes: int | None = None
    recalls: tuple[float, float] | None = None
    beyond_chance: bool = False

    @property
    def change(self) -> float:
        """Negative where the student lost."""
        return self.student - self.full


@dataclass(frozen=True)
class Training:
    """How one student was trained."""

    name: str
    facts: list[tuple[str, str]]
    curve: Markup | None


def precision_recall_charts(report: EvalReport) -> list[tuple[str, Markup]]:
    """A chart at IoU 0.50 and one as a mean over IoU 0.50 to 0.95; none where no curve is stored."""
    curves = [
        (model.name, style_of(index), model.precision_recall)
        for index, model in enumerate(report.models)
        if model.precision_recall
    ]
    if not curves:
        return []
    recall, precision = Axis("recall", 0.0, 1.0), Axis("precision", 0.0, 1.0)
    panels = (
        ("at IoU 0.50", [(name, style, curve.iou50) for name, style, curve in curves]),
        ("mean over IoU 0.50 to 0.95", [(name, style, curve.iou50_95) for name, style, curve in curves]),
    )
    return [
        (
            title,
            line_chart(
                f"Precision over recall {title}: {', '.join(name for name, _, _ in lines)}",
                recall,
                precision,
                [Series(name, style, [(n / 100, p) for n, p in enumerate(points)]) for name, style, points in lines],
            ),
        )
        for title, lines in panels
    ]


def class_precisions(report: EvalReport) -> list[ClassPrecision]:
    """Classes by what the headline student lost, most first; empty without a student."""
    full, model = report.models[0], headline_model(report)
    if model is full:
        return []
    before = full.deployed.per_class if full.deployed else {}
    after = model.deployed.per_class if model.deployed else {}
    beyond = {each.name for each in model.class_changes.changed} if model.class_changes else set()
    rows = [
        ClassPrecision(
            name,
            value,
            model.per_class.get(name, 0.0),
            report.class_labels[name].boxes if name in report.class_labels else None,
            (before[name], after[name]) if name in before and name in after else None,
            name in beyond,
        )
        for name, value in full.per_class.items()
    ]
    return sorted(rows, key=lambda row: (row.change, row.name))


def training(student: StudentArtifacts) -> Training:
    """Settings and loss curve of a student's training."""
    manifest = student.manifest
    summary, config = manifest.training, manifest.qat
    if manifest.method is not TrainingMethod.QAT:
        none = "none: the student was calibrated only"
        if summary.comparison is not None:
            none = f"{quantity(summary.steps)} steps, not kept: {_comparison(summary.comparison)}"
        return Training(student.name, [("training", none), *_decision(summary)], None)
    rate = config.rate_of_weights if config.learns_weights else config.rate_of_biases
    facts = [
        ("steps", quantity(summary.steps)),
        ("batch", f"{config.batch} images"),
        ("calibration images", quantity(manifest.calibration_set.samples)),
        ("learned", "weights, biases and quantizers" if config.learns_weights else SCALES),
        ("learning rate", f"{rate:g}, cosine decay"),
        ("time", duration(summary.seconds)),
        *_decision(summary),
    ]
    if summary.comparison is not None:
        facts.append(("kept", _comparison(summary.comparison)))
    if summary.first_loss is not None and summary.last_loss is not None:
        facts.append(("loss", f"{short(summary.first_loss)} at first, {short(summary.last_loss)} over the last tenth"))
    return Training(student.name, facts, _loss_curve(student.name, summary.losses) if summary.losses else None)


def _comparison(found: TrainingComparison) -> str:
    images = f"{found.images} images " + ("held back of the set" if found.held_back else "of the set")
    return f"divergence from full precision {found.trained:.3f} trained, {found.calibrated:.3f} before, on {images}"


def _decision(summary: TrainingSummary) -> list[tuple[str, str]]:
    """The number that decided whether to train, where one did."""
    decided = summary.decision
    if decided is None:
        return []
    text = f"{decided.divergence:.3f} on {decided.images} images of the set; up to {decided.enough:g}, no training"
    return [("calibrated student's divergence from full precision", text)]


def _loss_curve(name: str, losses: tuple[float, ...]) -> Markup:
    mean = moving_mean(losses, max(1, len(losses) // 20))
    return line_chart(
        f"Training loss of {name} by step",
        Axis("step", 0.0, float(max(len(losses), 2))),
        linear_axis("loss", losses),
        [
            Series("each step", "raw", [(float(step), loss) for step, loss in enumerate(losses, start=1)]),
            Series("moving mean", "c2", mean),
        ],
    )
