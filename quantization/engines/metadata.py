"""What an exported file says of where it comes from."""

from collections.abc import Sequence
from pathlib import Path

import onnx

from schemas.operating_point import MatchedThreshold
from schemas.student import StudentManifest
from schemas.target import Target
from schemas.version import code_version


def own_metadata(manifest: StudentManifest, target: Target) -> dict[str, str]:
    """Entries for the metadata of a file, whatever its format."""
    return {
        "zsq_version": code_version(),
        "zsq_target": target.value,
        "zsq_student_sha256": manifest.weights_sha256,
        "zsq_teacher_sha256": manifest.teacher.sha256,
        "zsq_calibration_set": manifest.calibration_set.digest,
        "zsq_label_mode": manifest.calibration_set.label_mode.value,
        "zsq_image_source": manifest.calibration_set.image_source.value,
        "zsq_bits": f"{manifest.method.value} {manifest.bits.name}",
    }


THRESHOLD = "zsq_confidence_"


def threshold_metadata(thresholds: Sequence[MatchedThreshold]) -> dict[str, str]:
    """What to filter by in place of a threshold of full precision: `zsq_confidence_0.25_recall` is `0.2312`."""
    return {
        f"{THRESHOLD}{each.full_precision.threshold:g}_{each.by}": f"{each.matched.threshold:.4f}"
        for each in thresholds
        if each.matched is not None
    }


def write_thresholds(path: Path, output: Path, thresholds: Sequence[MatchedThreshold]) -> None:
    """Write an ONNX model again with thresholds in its metadata, and without any that were there; nothing else changes.

    Args:
        path: the model.
        output: the file that is written.
        thresholds: of the model.
    """
    model = onnx.load(path)
    kept = {each.key: each.value for each in model.metadata_props if not each.key.startswith(THRESHOLD)}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, kept | threshold_metadata(thresholds))
    output.write_bytes(model.SerializeToString(deterministic=True))
