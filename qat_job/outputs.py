"""Which folder a training fills, and what it is made from; imports no torch."""

from pathlib import Path

from schemas.provenance import Provenance
from schemas.qat_config import QatConfig
from schemas.student import MANIFEST, StudentManifest, is_exported
from stages.output import Output


def student_output(
    settings: QatConfig, inputs: dict[str, str], folder: Path, overwrite: bool
) -> Output[StudentManifest]:
    """The student that is asked for."""
    return Output(folder / MANIFEST, StudentManifest, Provenance.of("qat", settings.keyed(), inputs), overwrite)


def is_whole(student: StudentManifest, settings: QatConfig, folder: Path) -> bool:
    """Whether a finished student has every file that is asked for, or cannot have one."""
    return student.export_obstacle is not None or all(is_exported(folder, target) for target in settings.targets)
