"""Finding a teacher's checkpoint file and its digest, without importing torch."""

from pathlib import Path

from detectors.embedded import WEIGHTS
from schemas.errors import InputError
from schemas.storage import file_digest
from schemas.teacher import TeacherSource

EMBEDDED = "embedded"


def checkpoint_path(source: TeacherSource) -> Path:
    """The checkpoint file of a teacher; a published name that is not a file here is downloaded.

    Raises:
        InputError: no such file, and no such published checkpoint or no network.
    """
    if source.path == EMBEDDED:
        return WEIGHTS
    path = Path(source.path).expanduser()
    if path.is_file():
        return path
    if path.name == source.path and source.family == "ultralytics":
        from detectors.ultralytics_yolo import download

        return download(source.path)
    raise InputError(f"teacher {source.path}: no such file; check teacher.path")


def checkpoint_digest(source: TeacherSource) -> str:
    """sha256 of the teacher's checkpoint file."""
    return file_digest(checkpoint_path(source))
