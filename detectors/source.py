"""Finding a teacher's checkpoint file, its family and its digest, without importing torch."""

from pathlib import Path

from detectors.embedded import WEIGHTS
from detectors.family import adapter, family_of_file
from detectors.transformers import saved_model
from detectors.unusable import obstacle
from schemas.errors import ConfigError, InputError
from schemas.files import expanded
from schemas.teacher import EMBEDDED, Family, TeacherSource
from stages.container import where_checkpoints_lie
from stages.storage import file_digest


def checkpoint_path(source: TeacherSource) -> Path:
    """The checkpoint file of a teacher; a published name that is not a file here is downloaded.

    Raises:
        InputError: no such file, and no such published checkpoint or no network.
    """
    if source.path == EMBEDDED:
        if source.family not in (None, "ultralytics"):
            raise ConfigError(f"teacher.path: the embedded detector is no {source.family} one; name a checkpoint")
        return WEIGHTS
    path = expanded(source.path)
    if path.is_file():
        return path
    if path.is_dir():
        return saved_model.weights_in(path)
    if path.name == source.path:
        family = source.family or ("ultralytics" if path.suffix == ".pt" else "torchvision")
        try:
            return adapter(family).download(path.name)
        except InputError as error:
            raise InputError(f"{error}{where_checkpoints_lie()}") from error
    raise InputError(f"teacher {source.path}: no such file; check teacher.path{where_checkpoints_lie()}")


def checkpoint_family(source: TeacherSource, path: Path) -> Family:
    """The family of a teacher whose checkpoint file is `path`: as configured, else as the file shows.

    Raises:
        InputError: no family takes the file.
    """
    if source.path != EMBEDDED and (why := obstacle(path)):
        raise InputError(f"teacher {path}: {why}")
    if source.family is not None:
        return source.family
    return "ultralytics" if source.path == EMBEDDED else family_of_file(path)


def checkpoint_digest(source: TeacherSource) -> str:
    """sha256 of the teacher's checkpoint file; of a saved model, of all files that decide what it computes."""
    path = checkpoint_path(source)
    if source.family in (None, "transformers") and saved_model.is_saved_model(path):
        return saved_model.digest(path)
    return file_digest(path)
