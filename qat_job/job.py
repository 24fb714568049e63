"""The story of stage 2: load teacher and set, quantize, calibrate, keep the student so far, train, save, export."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from detectors.protocol import Detector
from detectors.registry import load_teacher, resolve_device
from qat_job.calibration_set import check_same_teacher, reference
from qat_job.checkpoint import CHECKPOINTS, Checkpoints
from qat_job.event_record import EventRecord
from qat_job.images import ImageBatches
from qat_job.sensitivity.job import make_plan, measure
from qat_job.team import Team, assembled
from qat_job.training import train
from quantization.calibrate import calibrate
from quantization.convert import make_student, mean_weight_bits, quantized_layers, quantizer_records
from quantization.fitting import fit_to_float
from quantization.onnx.export import OBSERVED_IMAGES, check_expressible, export_student, trace_student
from quantization.student import load_student, save_student
from schemas.errors import InputError
from schemas.provenance import Provenance
from schemas.qat_config import BitPolicy, QatConfig
from schemas.sensitivity import SENSITIVITY
from schemas.student import (
    MANIFEST,
    PTQ_FOLDER,
    WEIGHTS,
    ExportForm,
    StudentManifest,
    TrainingMethod,
    TrainingSummary,
    is_exported,
    onnx_manifest_path,
)
from schemas.target import Target, exported_path
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
    check_same_teacher(teacher, calibration_set)
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
    check_same_teacher(teacher, calibration_set)
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
        stage.reporter.message(f"going on after step {checkpoint.record.steps} of {settings.steps}")
        settings = settings.model_copy(update={"bits": checkpoint.record.bits, "sensitivity": None})
    student = make_student(teacher, settings.bits)
    save = partial(save_student, config=settings, calibration_set=reference(calibration_set), provenance=provenance)
    if checkpoint is None:
        manifest = calibrate_student(student, images, settings, folder, save, stage)
    if settings.ptq_only:
        team.text("")
    else:
        team.text(settings.bits.model_dump_json())
        team.text(str(checkpoint.record.steps if checkpoint else 0))
        summary = train(student, teacher, images, settings, stage, checkpoints, checkpoint, events, team)
        stage.require_output()
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


def check_targets(teacher: Detector, settings: QatConfig) -> None:
    """Check that the student can be exported as asked, before it is made.

    Raises:
        ConfigError: a target cannot express it, or what makes the target's files is missing.
    """
    if settings.targets and teacher.export_obstacle is None:
        quantizers = quantizer_records(make_student(teacher, settings.bits).network)
        for target in settings.targets:
            check_expressible(quantizers, target)


def calibrate_student(
    student: Detector, images: ImageBatches, settings: QatConfig, folder: Path, save: Callable[..., StudentManifest],
    stage: Stage,
) -> StudentManifest:  # fmt: skip
    """Calibrate `student`, for training where that follows, and save the student that is not trained: its manifest."""
    stage.reporter.message(f"calibrating {len(quantized_layers(student.network))} layers, {settings.bits.name}")
    calibrate(
        student.network, lambda: images.in_order(settings.calibration_images, settings.batch), student.head_outputs
    )
    untrained = student if settings.ptq_only else student.copy()
    fit_on_set(untrained, images, settings, trained=False)
    stage.stop_here_if_asked()
    summary = TrainingSummary(steps=0, seconds=0.0, first_loss=None, last_loss=None)
    before = folder if settings.ptq_only else folder / PTQ_FOLDER
    manifest = save(untrained, before, method=TrainingMethod.PTQ, training=summary)
    if untrained is not student:
        fit_on_set(student, images, settings, trained=True)
    return manifest


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


def export(
    student: Detector,
    manifest: StudentManifest,
    images: ImageBatches,
    folder: Path,
    targets: Sequence[Target],
    stage: Stage,
) -> None:
    """Write the file of each target, with its outputs on calibration images compared to the student's.

    Raises:
        ConfigError: a target cannot express the student.
        VerificationError: the outputs differ, or the file breaks the target's rules.
    """
    if not targets:
        return
    seen = next(images.in_order(OBSERVED_IMAGES, OBSERVED_IMAGES))
    traced = trace_student(student)
    for target in targets:
        stage.stop_here_if_asked()
        path = exported_path(folder, target)
        stage.reporter.message(f"exporting {path}")
        form = ExportForm(target=target, image_size=manifest.calibration_set.image_size)
        exported = export_student(student, manifest, traced, path, seen, form)
        parity, census = exported.parity, exported.census
        stage.reporter.message(
            f"{path}: {exported.bytes / 1e6:.2f} MB, {sum(census.integer.values())} operators in integers, "
            f"{len(census.float_layers)} layers in float; against the student, scores differ by at most "
            f"{parity.score_max:.4f}, boxes by {parity.box_mean:.3f} px on average"
        )


def export_again(settings: QatConfig, set_folder: Path, folder: Path, stage: Stage) -> None:
    """Export a finished student for the targets whose files are missing.

    Raises:
        VerificationError: the student or the set does not match its digest.
    """
    device = resolve_device(settings.device)
    student, manifest = load_student(folder, device)
    images = ImageBatches(open_calibration_set(set_folder), device)
    missing = [target for target in settings.targets if not is_exported(folder, target)]
    export(student, manifest, images, folder, missing, stage)


def remove_student(folder: Path) -> None:
    """Delete a student's files, and the folder if nothing else is in it."""
    remove_file(folder / MANIFEST)
    remove_exported(folder)
    remove_file(folder / WEIGHTS)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def remove_exported(folder: Path) -> None:
    """Delete the exported models of a student, each after its manifest."""
    for path in (exported_path(folder, target) for target in Target):
        remove_file(onnx_manifest_path(path))
        remove_file(path)


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
