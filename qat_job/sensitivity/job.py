"""The story of a sensitivity measurement: load teacher and set, quantize layer by layer, plan, write both."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from detectors.protocol import Detector
from detectors.registry import load_teacher, resolve_device
from qat_job.calibration_set import check_same_teacher, reference
from qat_job.images import ImageBatches
from qat_job.sensitivity.curvature import METRIC, layer_errors
from qat_job.sensitivity.planning import AgreementDrop, Plan, plan_for_budget, plan_for_drop
from quantization.convert import make_student, quantized_layers
from quantization.mixed_precision import mean_bits
from quantization.plan import fixed_weight_bits
from schemas.planned_bits import SensitivityConfig
from schemas.provenance import Provenance
from schemas.qat_config import QatConfig
from schemas.sensitivity import PLAN, SENSITIVITY, LayerSensitivity, SensitivityReport
from stages.output import Output
from stages.shards import CalibrationSet, open_calibration_set
from stages.stage import Stage
from stages.storage import remove_file, write_text

ROWS = 12
"""Layers in the closing table."""
BAR_WIDTH = 24
"""Length of the longest text bar, characters."""


def analyse(settings: QatConfig, set_folder: Path, folder: Path, overwrite: bool, stage: Stage) -> None:
    """Write `sensitivity.json` of the teacher and set, and `plan.yaml` where `settings` asks for a plan.

    Raises:
        ZsqError: bad input, a set that fails verification, a target that cannot be met, or a stop request.
    """
    teacher = load_teacher(settings.teacher, resolve_device(settings.device))
    calibration_set = open_calibration_set(set_folder)
    check_same_teacher(teacher, calibration_set, settings.allow_other_teacher)
    report = measure(teacher, calibration_set, settings, folder, overwrite, stage)
    if not settings.plans_bits:
        remove_file(folder / PLAN)  # an older one would be taken for this run's
    else:
        plan = make_plan(teacher, calibration_set, report.layers, settings, stage)
        write_text(folder / PLAN, plan_file(settings, plan))
        stage.reporter.message(f"plan: {folder / PLAN}", path=str(folder / PLAN))
    stage.reporter.message(f"sensitivity: {folder / SENSITIVITY}", path=str(folder / SENSITIVITY))


def measure(
    teacher: Detector,
    calibration_set: CalibrationSet,
    settings: QatConfig,
    folder: Path,
    overwrite: bool,
    stage: Stage,
) -> SensitivityReport:
    """The sensitivity of every layer that the policy quantizes, from `folder` where it was measured already.

    Raises:
        ConfigError: the folder holds another measurement, and `overwrite` is not set.
        Stopped: SIGTERM arrived.
    """
    sensitivity = settings.sensitivity or SensitivityConfig()
    inputs = {"teacher": teacher.identity.sha256, "calibration_set": calibration_set.manifest.digest}
    policy = settings.bits.policy
    config = {"policy": policy.value, "images": sensitivity.images, "candidates": list(settings.planned_widths)}
    provenance = Provenance.of("sensitivity", config, inputs)
    output = Output(folder / SENSITIVITY, SensitivityReport, provenance, overwrite)
    done = output.finished()
    if done is not None:
        stage.reporter.message(f"sensitivity is up to date: {output.manifest}")
        show_ranking(done, stage)
        return done

    images = ImageBatches(calibration_set, next(teacher.network.parameters()).device)
    student = make_student(teacher, settings.bits)
    layers = quantized_layers(student.network)
    count = min(sensitivity.images, len(images))
    errors = layer_errors(
        student,
        images.in_order(count, 1),
        settings.planned_widths,
        stage.counter(count, "sensitivity", "image"),
    )
    fixed = fixed_weight_bits(teacher, settings.bits)
    report = SensitivityReport(
        teacher=teacher.identity,
        calibration_set=reference(calibration_set),
        policy=policy,
        images=count,
        metric=METRIC,
        layers=tuple(
            LayerSensitivity(name=name, weights=layer.weight.numel(), fixed_bits=fixed.get(name), errors=errors[name])
            for name, layer in layers.items()
        ),
        provenance=provenance,
    )
    output.publish(report)
    show_ranking(report, stage)
    return report


def make_plan(
    teacher: Detector,
    calibration_set: CalibrationSet,
    layers: Sequence[LayerSensitivity],
    settings: QatConfig,
    stage: Stage,
) -> Plan:
    """Mixed precision for the target that `settings.sensitivity` names.

    Raises:
        ConfigError: the target cannot be met.
    """
    sensitivity = settings.sensitivity
    assert sensitivity is not None and settings.plans_bits  # the caller asked
    if sensitivity.budget is not None:
        plan = plan_for_budget(layers, sensitivity.budget)
    else:
        assert sensitivity.max_drop is not None
        images = ImageBatches(calibration_set, next(teacher.network.parameters()).device)
        batches = list(images.in_order(sensitivity.images, settings.batch))
        measure_drop = AgreementDrop(teacher, settings.bits, batches, images.labels(sensitivity.images))

        def drop_of(plan: Mapping[str, int]) -> float:
            stage.stop_here_if_asked()
            drop = measure_drop(plan)
            stage.reporter.message(f"{mean_bits(layers, plan):.3f} bits in the mean: drop {drop:.3f}")
            return drop

        plan = plan_for_drop(layers, sensitivity.max_drop, drop_of)
    show_plan(plan, layers, stage)
    return plan


def plan_file(settings: QatConfig, plan: Plan) -> str:
    """A qat configuration with the plan, as YAML: `settings` but for the target, which is met."""
    planned = settings.model_copy(update={"bits": plan.applied_to(settings.bits), "sensitivity": None})
    values = planned.model_dump(mode="json", exclude_defaults=True)
    head = (
        f"# Mixed precision, {plan.mean_bits:.4f} weight bits in the mean. Train it with `zsq qat --config {PLAN}`, "
        "or put it below `qat:` in the configuration of a run."
    )
    return f"{head}\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)}"


def show_ranking(report: SensitivityReport, stage: Stage) -> None:
    """The most sensitive layers first, with a bar."""
    ranked = report.ranked()
    bits = ranked[0].errors[0].weight_bits
    longest = ranked[0].errors[0].error or 1.0
    rows = [
        (
            layer.name,
            str(layer.weights),
            f"{layer.errors[0].error:.3g}",
            ("█" * round(layer.errors[0].error / longest * BAR_WIDTH)).ljust(BAR_WIDTH, "░"),
        )
        for layer in ranked[:ROWS]
    ]
    columns = ("layer", "weights", f"error at {bits} bits", "")
    stage.reporter.table(f"Most sensitive of {len(ranked)} layers", columns, rows)


def show_plan(plan: Plan, layers: Sequence[LayerSensitivity], stage: Stage) -> None:
    """What the plan gives and costs."""
    widths = sorted(set(plan.layers.values()))
    rows = [("mean weight bits", f"{plan.mean_bits:.4f}, layers at fixed bits included")]
    rows += [(f"layers at {bits} bits", str(sum(each == bits for each in plan.layers.values()))) for bits in widths]
    rows.append(("predicted error", f"{plan.error:.4f}"))
    if plan.drop is not None:
        rows.append(("drop before training", f"{plan.drop:.1%} of the teacher's mAP50-95 on the set's labels"))
    stage.reporter.table("Mixed precision", ("", ""), rows)
