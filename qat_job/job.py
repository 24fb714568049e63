"""The story of stage 2: load teacher and set, quantize, calibrate, keep the student so far, train, save, export."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from detectors.protocol import Detector
from detectors.registry import load_teacher, resolve_device
from qat_job.calibration_set import check_same_teacher, reference
from qat_job.checkpoint import CHECKPOINTS, Checkpoints
from qat_job.decision import decide
from qat_job.event_record import EventRecord
from qat_job.exported_files import check_targets, export, remove_exported
from qat_job.images import ImageBatches
from qat_job.sensitivity.job import make_plan, measure
from qat_job.team import Team, assembled
from qat_job.training import train
from quantization.calibrate import calibrate
from quantization.convert import make_student, mean_weight_bits, quantized_layers
from quantization.fitting import fit_to_float
from quantization.student import save_student
from schemas.errors import InputError
from schemas.provenance import Provenance
from schemas.qat_config import BitPolicy, QatConfig
from schemas.sensitivity import SENSITIVITY
from schemas.student import (
    MANIFEST,
    PTQ_FOLDER,
    WEIGHTS,
    StudentManifest,
    TrainingDecision,
    TrainingMethod,
    TrainingSummary,
)
from stages.event_files import events_folder
from stages.ranks import Rank
from stages.shards import CalibrationSet, open_calibration_set
from stages.stage import Stage
from stages.storage import remove_file


def quantize(
    settings: QatConfig,
    provenance: Provenance,
    set_folder: Path,
    folder: Path,
    stage: Stage,
    *,
    rank: Rank,
    overwrite: bool = False,
) -> StudentManifest | None:
    """Make the student `settings` describes from the set in `set_folder`, going on at the last checkpoint.

    Several ranks share each batch of the training; the first one does all else, and alone writes.

    Returns:
        The manifest, or None on the ranks that only train.

    Raises:
        ZsqError: bad input, a set that fails verification, a foreign unfinished training in the folder, a batch that
            the ranks cannot share, or a stop request.
    """
    device = resolve_device(settings.device, rank.local_index)
    with assembled(rank, device) as team:
        team.share(settings.batch)
        if team.leads:
            return lead(settings, provenance, set_folder, folder, stage, team, device, overwrite=overwrite)
        follow(settings, provenance, set_folder, folder, stage, team, device)
        return None


def follow(
    settings: QatConfig, provenance: Provenance, set_folder: Path, folder: Path, stage: Stage, team: Team,
    device: torch.device,
) -> None:  # fmt: skip
    """The part of a rank that only trains: a student of the same bits, its state as the leading rank has it.

    Raises:
        ZsqError: bad input, another checkpoint than the leading rank's, or a stop request.
    """
    teacher = load_teacher(settings.teacher, device)
    calibration_set = open_calibration_set(set_folder)
    check_same_teacher(teacher, calibration_set, settings.allow_other_teacher)
    start = team.text("")  # once the leading rank has calibrated
    if not start:
        return
    bits = BitPolicy.model_validate_json(start)
    checkpoints = Checkpoints(folder / CHECKPOINTS, provenance, settings.checkpoints_kept)
    checkpoint = checkpoints.latest(False, stage.reporter.message)
    theirs, mine = team.text(""), str(checkpoint.record.steps if checkpoint else 0)
    if mine != theirs:
        raise InputError(f"{folder}: this rank sees the checkpoint of step {mine}, the first one that of {theirs}; "
                         "all ranks need the same shared folder")  # fmt: skip
    student = make_student(teacher, bits)
    settings = settings.model_copy(update={"bits": bits, "sensitivity": None})
    images = ImageBatches(calibration_set, device)
    train(student, teacher, images, settings, stage, checkpoints, checkpoint, team=team)


def lead(
    settings: QatConfig,
    provenance: Provenance,
    set_folder: Path,
    folder: Path,
    stage: Stage,
    team: Team,
    device: torch.device,
    *,
    overwrite: bool,
) -> StudentManifest:
    """All of the stage; in the training, this rank's share of each batch."""
    teacher = load_teacher(settings.teacher, device)
    calibration_set = open_calibration_set(set_folder)
    check_same_teacher(teacher, calibration_set, settings.allow_other_teacher)
    check_targets(teacher, settings)
    images = ImageBatches(calibration_set, device)
    checkpoints = Checkpoints(folder / CHECKPOINTS, provenance, settings.checkpoints_kept)
    checkpoint = checkpoints.latest(overwrite, stage.reporter.message)
    events = EventRecord(events_folder(folder)) if settings.tensorboard else None
    remove_file(folder / MANIFEST)
    remove_exported(folder)

    if checkpoint is None:
        remove_student(folder / PTQ_FOLDER)  # of an overwritten student; evaluation would take it for this one's
        if settings.sensitivity is None:
            remove_file(folder / SENSITIVITY)  # of an overwritten student; a report would show it as this one's
        settings = with_planned_bits(settings, teacher, calibration_set, folder, stage)
    else:
        stage.reporter.message(f"going on after step {checkpoint.record.steps} of {settings.training_steps}")
        settings = settings.model_copy(update={"bits": checkpoint.record.bits, "sensitivity": None})
    student = make_student(teacher, settings.bits)
    save = partial(save_student, config=settings, calibration_set=reference(calibration_set), provenance=provenance)
    if checkpoint is None:
        untrained = calibrate_student(student, images, settings, stage)
        decision = decide(untrained, teacher, images, settings, stage)
        manifest = save_untrained(untrained, decision, settings.ptq_only, folder, save)
    else:
        decision = StudentManifest.read(folder / PTQ_FOLDER / MANIFEST).training.decision
    if checkpoint is None and ends_untrained(settings.ptq_only, decision):
        student = untrained
        team.text("")
    else:
        if checkpoint is None:
            fit_on_set(student, images, settings, trained=True)
        team.text(settings.bits.model_dump_json())
        team.text(str(checkpoint.record.steps if checkpoint else 0))
        summary = train(student, teacher, images, settings, stage, checkpoints, checkpoint, events, team)
        stage.require_output()
        summary = summary.model_copy(update={"decision": decision})
        manifest = save(student, folder, method=TrainingMethod.QAT, training=summary)
    checkpoints.clear()
    if events is not None:
        events.close()
    if settings.targets and student.export_obstacle is not None:
        stage.reporter.message(f"no exported model: {student.export_obstacle}")
    else:
        export(student, manifest, images, folder, settings.targets, stage)
    report(manifest, folder, stage)
    return manifest


def calibrate_student(student: Detector, images: ImageBatches, settings: QatConfig, stage: Stage) -> Detector:
    """Calibrate `student` in place; the student that is not trained comes back, as close to its teacher as it gets."""
    stage.reporter.message(f"calibrating {len(quantized_layers(student.network))} layers, {settings.bits.name}")
    calibrate(
        student.network, lambda: images.in_order(settings.calibration_images, settings.batch), student.head_outputs
    )
    untrained = student if settings.ptq_only else student.copy()
    fit_on_set(untrained, images, settings, trained=False)
    stage.stop_here_if_asked()
    return untrained


def save_untrained(
    untrained: Detector, decision: TrainingDecision | None, ptq_only: bool, folder: Path,
    save: Callable[..., StudentManifest],
) -> StudentManifest:  # fmt: skip
    """Save the student that is not trained: as the student itself, or beside the one that training will give."""
    training = TrainingSummary(steps=0, seconds=0.0, first_loss=None, last_loss=None, decision=decision)
    place = folder if ends_untrained(ptq_only, decision) else folder / PTQ_FOLDER
    return save(untrained, place, method=TrainingMethod.PTQ, training=training)


def ends_untrained(ptq_only: bool, decision: TrainingDecision | None) -> bool:
    """Whether the calibrated student is the result."""
    return ptq_only or (decision is not None and decision.is_enough)


def fit_on_set(student: Detector, images: ImageBatches, settings: QatConfig, *, trained: bool) -> None:
    """Bring a calibrated student, to be `trained` or not, close to the float network."""
    if settings.correction_images:
        fitted = next(images.in_order(settings.correction_images, settings.correction_images))
        fit_to_float(student, fitted, compensate=settings.compensates(trained=trained))


def with_planned_bits(
    settings: QatConfig, teacher: Detector, calibration_set: CalibrationSet, folder: Path, stage: Stage
) -> QatConfig:
    """`settings` with the mixed precision they ask for; `sensitivity.json` goes beside the student.

    Raises:
        ConfigError: the target cannot be met, or `bits.layers` names a layer that is not there.
    """
    bits = settings.bits
    if settings.sensitivity is not None:
        measured = measure(teacher, calibration_set, settings, folder, overwrite=True, stage=stage)
        if settings.sensitivity.plans:
            bits = make_plan(teacher, calibration_set, measured.layers, settings, stage).applied_to(bits)
    if bits.layers:
        bits = bits.model_copy(update={"mean_weight_bits": mean_weight_bits(make_student(teacher, bits).network)})
    return settings.model_copy(update={"bits": bits, "sensitivity": None})


def remove_student(folder: Path) -> None:
    """Delete a student's files, and the folder if nothing else is in it."""
    remove_file(folder / MANIFEST)
    remove_exported(folder)
    remove_file(folder / WEIGHTS)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def report(manifest: StudentManifest, folder: Path, stage: Stage) -> None:
    """The closing table and where the student lies."""
    training = manifest.training
    loss = "none" if training.last_loss is None else f"{training.first_loss:.4f} → {training.last_loss:.4f}"
    rows = [
        ("student", f"{manifest.method.value} {manifest.bits.name}, {len(manifest.quantizers)} quantizers"),
        ("training", f"{training.steps} steps, {training.seconds:.0f} s, loss {loss}"),
        ("folder", str(folder)),
    ]
    stage.reporter.table("Student", ("", ""), rows)
