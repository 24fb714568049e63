"""What costs most, and what would help most, as commands to copy."""

import shlex
from dataclasses import dataclass

from eval_job.report.wording import number, percent
from schemas.evaluation import EvalReport, Measure
from schemas.layer_study import Parts, Remedy

SHOWN = 3
WORTH = 0.02
"""A remedy that gives back less of what is lost is not shown."""
KINDS = {
    "activations": "Activations at 8 bits",
    "weights": "All weights at more bits",
    "layers": "The most sensitive layers at 8 bits",
    "mixed": "Bits planned layer by layer, {mean:.3g} in the mean",
}


@dataclass(frozen=True)
class Part:
    """A bar: what a variant of the student reaches."""

    name: str
    style: str
    value: str
    share: float


@dataclass(frozen=True)
class Help:
    """One remedy: what it is, what it gives back, what it costs, and the command."""

    title: str
    recovered: str
    mean_bits: str
    command: str


@dataclass(frozen=True)
class Advice:
    """The section of the page."""

    model: str
    images: int
    figure: str
    sentence: str
    parts: list[Part]
    helps: list[Help]


def advice(report: EvalReport) -> Advice | None:
    """Of the last student; None where it was not measured."""
    parts = report.parts
    if parts is None:
        return None
    variants = (
        ("full precision", "c0", parts.full_precision),
        ("weights alone", "c2", parts.weights_only),
        ("activations alone", "c4", parts.activations_only),
        (parts.model, "c1", parts.student),
    )
    highest = max(value for _, _, value in variants) or 1.0
    worth = [each for each in parts.remedies if each.recovered >= WORTH][:SHOWN]
    return Advice(
        model=parts.model,
        images=parts.images,
        figure="agreement, mAP50-95" if report.measure is Measure.AGREEMENT else "mAP50-95",
        sentence=sentence(parts),
        parts=[Part(name, style, number(value), max(value / highest, 0.0)) for name, style, value in variants],
        helps=[_help(each) for each in worth],
    )


def sentence(parts: Parts) -> str:
    """Whether weights or activations cost more."""
    lost = parts.full_precision - parts.student
    by_weights = parts.full_precision - parts.weights_only
    by_activations = parts.full_precision - parts.activations_only
    if max(by_weights, by_activations) <= 0.002:
        return f"Neither weights nor activations cost more than 0.002 of mAP50-95 on these {parts.images} images."
    costs = f"quantized alone, weights cost {by_weights:.3f} and activations {by_activations:.3f}"
    more = "weights" if by_weights >= by_activations else "activations"
    return f"Of {lost:.3f} that {parts.model} loses, most is due to its {more}: {costs}."


def _help(remedy: Remedy) -> Help:
    return Help(
        title=KINDS[remedy.kind].format(mean=remedy.mean_weight_bits),
        recovered=percent(max(remedy.recovered, 0.0)),
        mean_bits=f"{remedy.mean_weight_bits:.2f}",
        command=command(remedy.settings),
    )


def command(settings: tuple[str, ...]) -> str:
    """The commands that make another student with changed settings beside a run, and evaluate it."""
    changed = " ".join(f"--set {shlex.quote(each)}" for each in settings)
    return (
        "RUN=runs/best   # the folder of the run\n"
        f"zsq qat --config $RUN/config/qat.yaml --calibration-set $RUN/calibration --output $RUN/student-2 {changed}\n"
        "zsq eval --config $RUN/config/eval.yaml --student $RUN/student-2 --calibration-set $RUN/calibration "
        "--output $RUN/eval-2"
    )
