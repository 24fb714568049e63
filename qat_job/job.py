"""The story of stage 2: load teacher and set, quantize, calibrate, keep the student before training, train, save."""

from functools import partial
from pathlib import Path

from detectors.protocol import Detector
from detectors.registry import load_teacher, resolve_device
from qat_job.checkpoint import CHECKPOINTS, Checkpoints
from qat_job.images import ImageBatches
from qat_job.training import train
from quantization.calibrate import calibrate
from quantization.convert import make_student, quantized_layers
from quantization.student import save_student
from schemas.errors import InputError
from schemas.provenance import Provenance
from schemas.qat_config import QatConfig
from schemas.shards import CalibrationSet, open_calibration_set
from schemas.stage import Stage
from schemas.storage import remove_file
from schemas.student import (
    MANIFEST,
    PTQ_FOLDER,
    WEIGHTS,
    CalibrationSetReference,
    StudentManifest,
    TrainingMethod,
    TrainingSummary,
)


def quantize(
    settings: QatConfig,
    provenance: Provenance,
    set_folder: Path,
    folder: Path,
    stage: Stage,
    *,
    overwrite: bool = False,
) -> StudentManifest:
    """Make the student `settings` describes from the set in `set_folder`, going on at the last checkpoint.

    Raises:
        ZsqError: bad input, a set that fails verification, a foreign unfinished training in the folder, or a stop
            request.
    """
    device = resolve_device(settings.device)
    teacher = load_teacher(settings.teacher, device)
    calibration_set = open_calibration_set(set_folder)
    check_same_teacher(teacher, calibration_set)
    images = ImageBatches(calibration_set, device)
    checkpoints = Checkpoints(folder / CHECKPOINTS, provenance, settings.checkpoints_kept)
    checkpoint = checkpoints.latest(overwrite, stage.reporter.message)
    remove_file(folder / MANIFEST)

    student = make_student(teacher, settings.bits)
    save = partial(
        save_student, student, config=settings, calibration_set=reference(calibration_set), provenance=provenance
    )
    if checkpoint is None:
        remove_student(folder / PTQ_FOLDER)  # of an overwritten student; evaluation would take it for this one's
        stage.reporter.message(f"calibrating {len(quantized_layers(student.network))} layers, {settings.bits.name}")
        calibrate(
            student.network,
            lambda: images.in_order(settings.calibration_images, settings.batch),
            student.head_outputs,
        )
        stage.stop_here_if_asked()
        summary = TrainingSummary(steps=0, seconds=0.0, first_loss=None, last_loss=None)
        before = folder if settings.ptq_only else folder / PTQ_FOLDER
        manifest = save(before, method=TrainingMethod.PTQ, training=summary)
    else:
        stage.reporter.message(f"going on after step {checkpoint.record.steps} of {settings.steps}")
    if not settings.ptq_only:
        summary = train(student, teacher, images, settings, stage, checkpoints, checkpoint)
        manifest = save(folder, method=TrainingMethod.QAT, training=summary)
    checkpoints.clear()
    report(manifest, folder, stage)
    return manifest


def remove_student(folder: Path) -> None:
    """Delete a student's files, and the folder if nothing else is in it."""
    for name in (MANIFEST, WEIGHTS):
        remove_file(folder / name)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def check_same_teacher(teacher: Detector, calibration_set: CalibrationSet) -> None:
    """A set serves the teacher it was made from, or one with the same classes.

    Raises:
        InputError: class lists differ, or the images do not fit the network's stride.
    """
    made_for = calibration_set.manifest.teacher
    if made_for.class_names != teacher.identity.class_names:
        raise InputError(
            f"{calibration_set.folder}: made for a teacher with {len(made_for.class_names)} classes "
            f"({', '.join(made_for.class_names[:3])}, ...), this one has {len(teacher.identity.class_names)} "
            f"({', '.join(teacher.identity.class_names[:3])}, ...); use the set of this teacher"
        )
    if calibration_set.manifest.image_size % teacher.identity.stride:
        raise InputError(
            f"{calibration_set.folder}: images of {calibration_set.manifest.image_size} px do not fit the teacher's "
            f"stride {teacher.identity.stride}; make a set with a multiple of it"
        )


def reference(calibration_set: CalibrationSet) -> CalibrationSetReference:
    """What a student says of the set it was made with."""
    manifest = calibration_set.manifest
    return CalibrationSetReference(
        digest=manifest.digest,
        samples=manifest.samples,
        image_size=manifest.image_size,
        label_mode=manifest.label_mode,
        image_source=manifest.image_source,
    )


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
