"""`zsq export`: a finished student as a file for an engine."""

from pathlib import Path

from pipeline.settings import size_option
from schemas.calibration_set import MANIFEST as SET_MANIFEST
from schemas.calibration_set import CalibrationSetManifest
from schemas.errors import ConfigError, InputError
from schemas.image_size import LARGEST_SIDE, ImageSize
from schemas.student import (
    MANIFEST,
    ExportForm,
    OnnxManifest,
    StudentManifest,
    export_provenance,
    onnx_manifest_path,
)
from schemas.target import Target, exported_path
from stages.output import Output
from stages.ranks import Rank
from stages.stage import Stage
from stages.storage import file_digest


def export(
    folder: Path,
    set_folder: Path | None,
    output: Path | None,
    form: ExportForm,
    overwrite: bool,
    stage: Stage,
) -> None:
    """Export the student in `folder`, or say that this was done.

    Args:
        folder: of the student.
        set_folder: the calibration set the student was made with, to compare outputs on; None takes noise.
        output: model file; None for `model.<target>.onnx` or `.tflite` in the student's folder.
        form: what is asked of the file.
        overwrite: leave to replace another export.
        stage: reports.

    Raises:
        ZsqError: bad input, or an artifact that fails verification.
    """
    student = _read_student(folder, form.image_size)
    if set_folder is not None:
        _check_set(set_folder, student)
    path = output or exported_path(folder, form.target)
    written = onnx_manifest_path(path)
    _check_ending(path, form.target)
    if path.exists() and not written.exists() and output is not None and not overwrite:
        raise ConfigError(f"{path} exists and is no export of zsq; choose another file, or replace it with --overwrite")
    exported = Output(written, OnnxManifest, export_provenance(student, form), overwrite, named=path)
    done = exported.finished()
    if done is not None:
        if path.is_file() and file_digest(path) == done.sha256:
            stage.reporter.message(f"up to date: {path}", path=str(path))
            return
        stage.reporter.message(f"{path} does not match its digest: exporting again")

    import torch  # takes seconds, and "up to date" needs none of it

    from qat_job.images import ImageBatches
    from quantization.engines.sums import overflow_remark
    from quantization.onnx.export import OBSERVED_IMAGES, check_target, export_student, trace_student
    from quantization.student import load_student
    from stages.shards import open_calibration_set

    check_target(student, form.target, has_images=set_folder is not None)
    device = torch.device("cpu")
    detector, manifest = load_student(folder, device)
    images = None
    if set_folder is not None:
        batches = ImageBatches(open_calibration_set(set_folder), device)
        images = next(batches.in_order(OBSERVED_IMAGES, OBSERVED_IMAGES))
    with stage.claim(exported.folder, exported.key, Rank(), lambda: False):
        described = export_student(trace_student(detector, manifest), path, images, form)
    _show(described, path, stage)
    if remark := overflow_remark(described):
        stage.reporter.message(remark)


def export_form(folder: Path, target: Target, image_size: str | None, int4: bool) -> ExportForm:
    """What is asked of the file of a student, the size of its calibration set where none is given.

    Raises:
        ConfigError: the size is not written as `640` or `384x640`.
        InputError: there is no finished student in `folder`.
    """
    if image_size is None:
        size = _read_student(folder, None).calibration_set.image_size
    else:
        size = size_option("--image-size", image_size)
        _read_student(folder, size)
    return ExportForm(target=target, image_size=size, int4=int4)


def _check_ending(path: Path, target: Target) -> None:
    ending = exported_path(path.parent, target).suffix
    others = {exported_path(path.parent, each).suffix for each in Target} - {ending}
    if path.suffix.lower() in others:
        raise ConfigError(
            f"--output: {path} has the ending of another engine's files, and those of {target.value} end in {ending}; "
            f"name it {path.with_suffix(ending).name}, or choose another --target"
        )


def _read_student(folder: Path, size: ImageSize | None) -> StudentManifest:
    if not (folder / MANIFEST).exists():
        raise InputError(f"{folder}: no finished student here ({MANIFEST} is missing); run qat, or check --student")
    student = StudentManifest.read(folder / MANIFEST)
    if student.export_obstacle is not None:
        raise ConfigError(f"{folder}: this student cannot be exported: {student.export_obstacle}")
    stride = student.teacher.stride
    if size is not None and (size.height % stride or size.width % stride or size.shorter <= 0):
        raise ConfigError(f"--image-size: got {size}, this detector takes multiples of {stride}")
    if size is not None and size.longer > LARGEST_SIDE:
        raise ConfigError(f"--image-size: got {size}, at most {LARGEST_SIDE} pixels are compared")
    return student


def _show(described: OnnxManifest, path: Path, stage: Stage) -> None:
    parity, census = described.parity, described.census
    tools = ", ".join(f"{name} {version}" for name, version in described.tools.items())
    made = f"by {tools}" if tools else f"opset {described.opset}"
    rows = [
        ("model", f"{described.bits.name}, {described.image_size.in_words}, {made}"),
        ("target", f"{described.target.value} ({census.by})"),
        ("in integers", ", ".join(f"{count} {kind}" for kind, count in census.integer.items()) or "nothing"),
        ("in float", ", ".join(f"{count} {kind}" for kind, count in census.floating.items()) or "nothing"),
        ("size", f"{described.bytes / 1e6:.2f} MB"),
        ("class scores", f"off the student's by {parity.score_mean:.2g} on average, {parity.score_max:.2g} at most"),
        ("boxes", f"off by {parity.box_mean:.2g} px on average, {parity.box_max:.2g} px at most"),
        ("compared on", f"{parity.images} images ({parity.image_source})"),
        ("file", str(path)),
    ]
    stage.reporter.table("Exported model", ("", ""), rows)


def _check_set(folder: Path, student: StudentManifest) -> None:
    if not (folder / SET_MANIFEST).exists():
        raise InputError(f"{folder}: no finished calibration set here; check --calibration-set")
    digest = CalibrationSetManifest.read(folder / SET_MANIFEST).digest
    if digest != student.calibration_set.digest:
        raise InputError(
            f"{folder}: not the set this student was made with (digest {digest[:12]}…, the student's is "
            f"{student.calibration_set.digest[:12]}…); take that one, or leave --calibration-set out"
        )
