"""The files of a finished student, one for each target, and their removal."""

from collections.abc import Sequence
from pathlib import Path

from detectors.protocol import Detector
from detectors.registry import resolve_device
from qat_job.images import ImageBatches
from quantization.convert import make_student, quantizer_records
from quantization.engines.sums import overflow_remark
from quantization.onnx.export import OBSERVED_IMAGES, check_expressible, check_head, export_student, trace_student
from quantization.student import load_student
from schemas.qat_config import QatConfig
from schemas.student import ExportForm, StudentManifest, is_exported, onnx_manifest_path
from schemas.target import Target, exported_path
from stages.shards import open_calibration_set
from stages.stage import Stage
from stages.storage import remove_file


def check_targets(teacher: Detector, settings: QatConfig) -> None:
    """Check that the student can be exported as asked, before it is made.

    Raises:
        ConfigError: a target cannot express it, or what makes the target's files is missing.
    """
    if settings.targets and teacher.export_obstacle is None:
        quantizers = quantizer_records(make_student(teacher, settings.bits).network)
        for target in settings.targets:
            check_expressible(quantizers, target)
            check_head(teacher, target)


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
    traced = trace_student(student, manifest)
    for target in targets:
        stage.stop_here_if_asked()
        path = exported_path(folder, target)
        stage.reporter.message(f"exporting {path}")
        form = ExportForm(target=target, image_size=manifest.calibration_set.image_size)
        exported = export_student(traced, path, seen, form)
        parity, census = exported.parity, exported.census
        stage.reporter.message(
            f"{path}: {exported.bytes / 1e6:.2f} MB, {sum(census.integer.values())} operators in integers, "
            f"{len(census.float_layers)} layers in float; against the student, scores differ by at most "
            f"{parity.score_max:.4f}, boxes by {parity.box_mean:.3f} px on average"
        )
        if remark := overflow_remark(exported):
            stage.reporter.message(f"{path}: {remark}")


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


def remove_exported(folder: Path) -> None:
    """Delete the exported models of a student, each after its manifest."""
    for path in (exported_path(folder, target) for target in Target):
        remove_file(onnx_manifest_path(path))
        remove_file(path)
