"""The story of stage 2: load teacher and set, quantize, calibrate, keep the student so far, train, save, export."""

from dataclasses import dataclass
from pathlib import Path

import torch

from detectors.protocol import Detector
from detectors.registry import load_teacher, resolve_device
from qat_job.calibration_set import check_same_teacher, reference
from qat_job.checkpoint import CHECKPOINTS, Checkpoint, Checkpoints
from qat_job.decision import compare, decide
from qat_job.event_record import EventRecord
from qat_job.exported_files import check_targets, export, remove_exported
from qat_job.images import ImageBatches
from qat_job.memory import check_memory
from qat_job.replacement import move_in, remove_student
from qat_job.sensitivity.job import make_plan, measure
from qat_job.team import Team, assembled
from qat_job.training import Training, train
from quantization.calibrate import calibrate
from quantization.convert import make_student, mean_weight_bits, quantized_layers
from quantization.fitting import fit_to_float
from quantization.student import load_student, save_student
from schemas.base import Contract
from schemas.errors import InputError
from schemas.qat_config import BitPolicy, QatConfig
from schemas.sensitivity import SENSITIVITY
from schemas.student import (
    MANIFEST,
    PTQ_FOLDER,
    StudentManifest,
    TrainingMethod,
    TrainingSummary,
)
from stages.event_files import events_folder
from stages.output import Job
from stages.shards import CalibrationSet, open_calibration_set
from stages.stage import Stage
from stages.storage import remove_file

StudentJob = Job[StudentManifest]


@dataclass(frozen=True)
class Inputs:
    """What a student is made from."""

    teacher: Detector
    calibration_set: CalibrationSet
    images: ImageBatches


class Start(Contract):
    """Where every rank begins to train, as the leading one says it.

    Attributes:
        bits: of the student, as planned.
        steps: of the checkpoint to go on at; 0 where there is none.
        trains: whether there is anything to train.
    """

    bits: BitPolicy
    steps: int
    trains: bool


@dataclass(frozen=True)
class Prepared:
    """A student before its training.

    Attributes:
        student: calibrated, or to be restored from the checkpoint.
        start: what the other ranks are told.
        checkpoint: where an earlier run stopped.
        untrained: the manifest of the student that was saved without training.
    """

    student: Detector
    start: Start
    checkpoint: Checkpoint | None
    untrained: StudentManifest


@dataclass(frozen=True)
class Kept:
    """The student that the folder holds in the end."""

    student: Detector
    manifest: StudentManifest


def quantize(settings: QatConfig, set_folder: Path, job: StudentJob) -> StudentManifest | None:
    """Make the student `settings` describes from the set in `set_folder`, going on at the last checkpoint.

    Several ranks share each batch of the training; the first one does all else, and alone writes.

    Returns:
        The manifest, or None on the ranks that only train.

    Raises:
        ZsqError: bad input, a set that fails verification, a foreign unfinished training in the folder, a batch that
            the ranks cannot share, or a stop request.
    """
    device = resolve_device(settings.device, job.rank.local_index)
    checkpoints = Checkpoints(job.output.folder / CHECKPOINTS, job.output.wanted, settings.checkpoints_kept)
    with assembled(job.rank, device) as team:
        team.share(settings.batch)
        inputs = load_inputs(settings, set_folder, device)
        if team.leads:
            manifest = inputs.calibration_set.manifest
            check_memory(settings, inputs.teacher, manifest.image_size, manifest.samples, team, job.stage)
        prepared = prepare(settings, inputs, checkpoints, job) if team.leads else None
        start = team.agree(Start, prepared.start if prepared else None)
        settings = settings.model_copy(update={"bits": start.bits, "sensitivity": None})
        if prepared is None:
            if start.trains:
                follow(settings, inputs, checkpoints, start, team, job.stage)
            return None
        kept = Kept(prepared.student, prepared.untrained)
        if start.trains:
            kept = lead(settings, inputs, checkpoints, prepared, team, job)
    checkpoints.clear()
    export_finished(kept, inputs.images, settings, job)
    return kept.manifest


def load_inputs(settings: QatConfig, set_folder: Path, device: torch.device) -> Inputs:
    """The teacher, and the set that was made from it."""
    teacher = load_teacher(settings.teacher, device)
    calibration_set = open_calibration_set(set_folder)
    check_same_teacher(teacher, calibration_set, settings.allow_other_teacher)
    return Inputs(teacher, calibration_set, ImageBatches(calibration_set, device, teacher.mirror))


def prepare(settings: QatConfig, inputs: Inputs, checkpoints: Checkpoints, job: StudentJob) -> Prepared:
    """The student as training takes it: calibrated, or where an earlier run stopped.

    Where calibration alone is the result, or training is to follow, the calibrated student is saved.
    """
    folder, stage = job.output.folder, job.stage
    check_targets(inputs.teacher, settings)
    checkpoint = checkpoints.latest(job.output.overwrite, stage.reporter.message)
    job.output.withdraw()
    remove_exported(folder)
    if checkpoint is not None:
        steps, bits = checkpoint.record.steps, checkpoint.record.bits
        stage.reporter.message(f"going on after step {steps} of {settings.training_steps}")
        untrained = StudentManifest.read(folder / PTQ_FOLDER / MANIFEST)
        start = Start(bits=bits, steps=steps, trains=True)
        return Prepared(make_student(inputs.teacher, bits), start, checkpoint, untrained)

    remove_student(folder / PTQ_FOLDER)  # of an overwritten student; evaluation would take it for this one's
    if settings.sensitivity is None:
        remove_file(folder / SENSITIVITY)  # of an overwritten student; a report would show it as this one's
    settings = with_planned_bits(settings, inputs, folder, stage)
    student = make_student(inputs.teacher, settings.bits)
    calibrated = calibrate_student(student, inputs.images, settings, stage)
    decision = decide(calibrated, inputs.teacher, inputs.images, settings, stage)
    trains = not (settings.ptq_only or (decision is not None and decision.is_enough))
    training = TrainingSummary(steps=0, seconds=0.0, first_loss=None, last_loss=None, decision=decision)
    place = folder / PTQ_FOLDER if trains else folder
    untrained = save(calibrated, place, training, settings, inputs, job)
    start = Start(bits=settings.bits, steps=0, trains=trains)
    if trains and settings.compensates(trained=True) != settings.compensates(trained=False):
        fit_on_set(student, inputs.images, settings, trained=True)
        return Prepared(student, start, None, untrained)
    return Prepared(calibrated, start, None, untrained)


def lead(
    settings: QatConfig, inputs: Inputs, checkpoints: Checkpoints, prepared: Prepared, team: Team, job: StudentJob
) -> Kept:
    """Train as the rank that writes: checkpoints on the way, the student at the end."""
    events = EventRecord(events_folder(job.output.folder)) if settings.tensorboard else None
    training = Training(prepared.student, inputs.teacher, settings, team, prepared.checkpoint)
    summary = train(training, inputs.images, job.stage, checkpoints, events)
    if events is not None:
        events.close()
    job.stage.require_output()
    summary = summary.model_copy(update={"decision": prepared.untrained.training.decision})
    return keep_better(prepared.student, summary, settings, inputs, job)


def keep_better(
    trained: Detector, summary: TrainingSummary, settings: QatConfig, inputs: Inputs, job: StudentJob
) -> Kept:
    """Save the trained student, or the calibrated one where training ended further from the teacher."""
    folder, kept = job.output.folder, trained
    if settings.keep_better:
        calibrated, _ = load_student(folder / PTQ_FOLDER, next(inputs.teacher.network.parameters()).device)
        found = compare(trained, calibrated, inputs.teacher, inputs.calibration_set, settings)
        summary = summary.model_copy(update={"comparison": found})
        if not summary.is_of_trained:
            kept = calibrated
            job.stage.reporter.message(
                f"training ended further from full precision than calibration alone (outputs diverge by "
                f"{found.trained:.3f} and {found.calibrated:.3f} on {found.images} images): the calibrated student is "
                "kept. Try fewer steps or a lower learning_rate, or keep_better: false"
            )
    manifest = save(kept, folder, summary, settings, inputs, job)
    if not summary.is_of_trained:
        remove_student(folder / PTQ_FOLDER)  # the same one: evaluation would show it twice
    return Kept(kept, manifest)


def follow(
    settings: QatConfig, inputs: Inputs, checkpoints: Checkpoints, start: Start, team: Team, stage: Stage
) -> None:
    """Train as a rank that does nothing else: a student of the same bits, its state as the leading rank has it.

    Raises:
        InputError: this rank sees another checkpoint than the leading one.
    """
    checkpoint = checkpoints.latest(False, stage.reporter.message)
    steps = checkpoint.record.steps if checkpoint else 0
    if steps != start.steps:
        raise InputError(
            f"{checkpoints.folder}: this rank sees the checkpoint of step {steps}, the first one that of "
            f"{start.steps}; all ranks need the same shared folder"
        )
    student = make_student(inputs.teacher, start.bits)
    train(Training(student, inputs.teacher, settings, team, checkpoint), inputs.images, stage, checkpoints)


def save(
    student: Detector, folder: Path, training: TrainingSummary, settings: QatConfig, inputs: Inputs, job: StudentJob
) -> StudentManifest:
    """Write a student made of `inputs`, trained or not."""
    method = TrainingMethod.QAT if training.is_of_trained else TrainingMethod.PTQ
    return save_student(
        student,
        folder,
        method=method,
        training=training,
        config=settings,
        calibration_set=reference(inputs.calibration_set),
        provenance=job.output.wanted,
    )


def export_finished(kept: Kept, images: ImageBatches, settings: QatConfig, job: StudentJob) -> None:
    """The file of each target, or why there is none; then the closing table."""
    student, manifest = kept.student, kept.manifest
    if settings.targets and student.export_obstacle is not None:
        job.stage.reporter.message(f"no exported model: {student.export_obstacle}")
    else:
        export(student, manifest, images, job.output.folder, settings.targets, job.stage)
    report(manifest, move_in(job.output.folder), job.stage)


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


def fit_on_set(student: Detector, images: ImageBatches, settings: QatConfig, *, trained: bool) -> None:
    """Bring a calibrated student, to be `trained` or not, close to the float network."""
    if settings.correction_images:
        fitted = next(images.in_order(settings.correction_images, settings.correction_images))
        fit_to_float(student, fitted, compensate=settings.compensates(trained=trained))


def with_planned_bits(settings: QatConfig, inputs: Inputs, folder: Path, stage: Stage) -> QatConfig:
    """`settings` with the mixed precision they ask for; `sensitivity.json` goes beside the student.

    Raises:
        ConfigError: the target cannot be met, or `bits.layers` names a layer that is not there.
    """
    bits, teacher, calibration_set = settings.bits, inputs.teacher, inputs.calibration_set
    if settings.sensitivity is not None:
        measured = measure(teacher, calibration_set, settings, folder, overwrite=True, stage=stage)
        if settings.plans_bits:
            bits = make_plan(teacher, calibration_set, measured.layers, settings, stage).applied_to(bits)
    if bits.layers:
        bits = bits.model_copy(update={"mean_weight_bits": mean_weight_bits(make_student(teacher, bits).network)})
    return settings.model_copy(update={"bits": bits, "sensitivity": None})


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
