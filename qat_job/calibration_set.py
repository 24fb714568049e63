"""What a student says of the set it is made with, and whether the set fits its teacher."""

from detectors.protocol import Detector
from schemas.errors import InputError
from schemas.student import CalibrationSetReference
from stages.shards import CalibrationSet


def check_same_teacher(teacher: Detector, calibration_set: CalibrationSet, allow_other: bool) -> None:
    """A set serves the teacher it was made from, or with leave one of the same classes.

    Raises:
        InputError: it was made from other weights without leave, class lists differ, or the images do not fit the
            network's stride.
    """
    manifest = calibration_set.manifest
    manifest.check_made_from(teacher.identity.sha256, calibration_set.folder, allow_other=allow_other)
    made_for = manifest.teacher
    if made_for.class_names != teacher.identity.class_names:
        raise InputError(
            f"{calibration_set.folder}: made for a teacher with {len(made_for.class_names)} classes "
            f"({', '.join(made_for.class_names[:3])}, ...), this one has {len(teacher.identity.class_names)} "
            f"({', '.join(teacher.identity.class_names[:3])}, ...); use the set of this teacher"
        )
    size = calibration_set.manifest.image_size
    if size.height % teacher.identity.stride or size.width % teacher.identity.stride:
        raise InputError(
            f"{calibration_set.folder}: images of {size} px do not fit the teacher's "
            f"stride {teacher.identity.stride}; make a set with a multiple of it"
        )
    if not size.is_square and teacher.needs_squares is not None:
        raise InputError(f"{calibration_set.folder}: images of {size} px, but {teacher.needs_squares}; make squares")


def reference(calibration_set: CalibrationSet) -> CalibrationSetReference:
    """What a student says of the set it was made with."""
    manifest = calibration_set.manifest
    return CalibrationSetReference(
        digest=manifest.digest,
        samples=manifest.samples,
        image_size=manifest.image_size,
        label_mode=manifest.label_mode,
        image_source=manifest.image_source,
        teacher_sha256=manifest.teacher.sha256,
    )
