"""Confidence thresholds that an evaluation found, in a student's files: `zsq thresholds`, and the end of `zsq run`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schemas.errors import InputError, VerificationError
from schemas.evaluation import REPORT, EvalReport, EvaluatedModel
from schemas.operating_point import MatchedThreshold
from schemas.student import OnnxManifest, is_exported, onnx_manifest_path
from schemas.target import FORMATS, Target, exported_path
from stages.ranks import Rank
from stages.stage import Stage
from stages.storage import atomic_path, file_digest, remove_file, write_text


def write_thresholds(student: Path, evaluation: Path, stage: Stage) -> None:
    """Write into each file of a student what its row in an evaluation says; ONNX metadata, and the file's manifest.

    Args:
        student: its folder.
        evaluation: folder of a finished evaluation.
        stage: reports.

    Raises:
        InputError: there is no finished evaluation.
        VerificationError: a file does not match its digest.
    """
    if not (evaluation / REPORT).exists():
        raise InputError(
            f"{evaluation}: no finished evaluation here ({REPORT} is missing); run eval, or check the path"
        )
    report = EvalReport.read(evaluation / REPORT)
    paths = [exported_path(student, target) for target in Target if is_exported(student, target)]
    with stage.claim(student, report.provenance.key, Rank(), lambda: not paths):
        for path in paths:
            manifest = OnnxManifest.read(onnx_manifest_path(path))
            row = _row_of(manifest, report)
            if row is None or not row.thresholds or row.thresholds == manifest.thresholds:
                continue
            _write(path, manifest, row.thresholds)
            stage.reporter.message(f"{path}: {_in_words(row.thresholds)}")


def _row_of(manifest: OnnxManifest, report: EvalReport) -> EvaluatedModel | None:
    """The row of a file; None where the evaluation is of another one."""
    known = {manifest.sha256, manifest.computes}
    return next((model for model in report.models if model.target and model.weights_sha256 in known), None)


def _write(path: Path, manifest: OnnxManifest, thresholds: Sequence[MatchedThreshold]) -> None:
    from quantization.engines import metadata  # loads onnx

    if file_digest(path) != manifest.sha256:
        raise VerificationError(f"{path}: content does not match its digest; copy it again or run zsq export again")
    changed: dict[str, Any] = {"thresholds": tuple(thresholds)}
    written = onnx_manifest_path(path)
    if manifest.target not in FORMATS:
        remove_file(written)  # from here on the file is not whole: qat makes it again where this is killed
        with atomic_path(path) as temporary:
            metadata.write_thresholds(path, temporary, thresholds)
        changed |= {"sha256": file_digest(path), "bytes": path.stat().st_size, "exported_sha256": manifest.computes}
    write_text(written, manifest.model_copy(update=changed).to_json())


def _in_words(thresholds: Sequence[MatchedThreshold]) -> str:
    said = [
        f"{each.matched.threshold:.3f} gives the {each.by} of full precision at {each.full_precision.threshold:g}"
        for each in thresholds
        if each.matched is not None
    ]
    return "thresholds in its metadata: " + ("; ".join(said) or "none gives the figures of full precision")
