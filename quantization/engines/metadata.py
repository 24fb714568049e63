"""What an exported file says of where it comes from."""

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
