"""What the rows need from elsewhere: checkpoints and COCO val2017, into a cache folder, verified."""

import json
import shutil
import zipfile
from contextlib import chdir
from pathlib import Path, PurePosixPath

from pydantic import Field

from benchmarks.paper.rows import Detector
from detectors.source import checkpoint_path
from pipeline.sets.fetch import fetch_file
from pipeline.sets.locations import locate
from schemas.base import Contract, read_config_values, validate_config
from schemas.errors import InputError, VerificationError
from schemas.teacher import EMBEDDED, TeacherSource
from stages.stage import Stage
from stages.storage import make_folder

SOURCES = Path(__file__).parent / "sources.yaml"
COCO_FOLDER = "coco-val2017"
INSTANCES = "annotations/instances_val2017.json"
"""The member of the annotations' archive that is read."""
IMAGES = "val2017"
"""The folder in the images' archive."""


class RemoteFile(Contract):
    """A file elsewhere, and what it must be."""

    address: str = Field(description="of its folder: an http, https, s3 or file URL, or a folder here")
    file: str = Field(pattern=r"^[^/\\]+$", description="its name there")
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    def fetched(self, folder: Path, stage: Stage) -> Path:
        """The file in `folder`, fetched unless it is there.

        Raises:
            InputError: its server does not give it, or the folder cannot be written.
            VerificationError: what arrived is another file.
        """
        path = folder / self.file
        if not path.is_file():  # a whole and verified one, else it would have another name
            stage.reporter.message(f"fetching {self.address}/{self.file}, {self.bytes / 1e6:.0f} MB, into {folder}")
            make_folder(folder)
            fetch_file(locate(self.address), folder, self, stage)
        return path


class Coco(Contract):
    """The two archives of COCO val2017."""

    images: RemoteFile
    annotations: RemoteFile


class Sources(Contract):
    """Everything that is fetched from an address of its own."""

    coco: Coco
    checkpoints: dict[str, RemoteFile] = Field(default={}, description="by the name of the detector")

    @classmethod
    def read(cls, path: Path) -> "Sources":
        """Read and validate a YAML file.

        Raises:
            ConfigError: it is not such a file.
        """
        return validate_config(cls, read_config_values(path), str(path))


def fetched_checkpoint(detector: Detector, sources: Sources, cache: Path, stage: Stage) -> str:
    """The checkpoint file of a detector, fetched unless it is there; `embedded` stays what it is.

    Raises:
        InputError: it cannot be fetched.
        VerificationError: what arrived is another file.
    """
    if detector.checkpoint == EMBEDDED or Path(detector.checkpoint).is_absolute():
        return detector.checkpoint
    folder = cache / "checkpoints"
    make_folder(folder)
    if detector.name in sources.checkpoints:
        return str(sources.checkpoints[detector.name].fetched(folder, stage))
    with chdir(folder):  # where families put what they fetch by its published name
        return str(checkpoint_path(TeacherSource(path=detector.checkpoint)).absolute())


def fetched_coco(coco: Coco, cache: Path, stage: Stage) -> Path:
    """The folder of COCO val2017, `instances.json` and `images/`, fetched and unpacked unless it is there.

    Raises:
        InputError: an archive cannot be fetched or unpacked.
        VerificationError: an archive is not the one that is known, or lacks images that the labels name.
    """
    folder = cache / COCO_FOLDER
    if folder.exists():
        return folder
    archives = [each.fetched(cache, stage) for each in (coco.images, coco.annotations)]
    unfinished = cache / f".{COCO_FOLDER}"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        _unpack(archives[0], archives[1], unfinished, stage)
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(f"{archives[0].parent}: an archive cannot be unpacked ({error}); check its source") from error
    unfinished.rename(folder)
    for archive in archives:
        archive.unlink()
    return folder


def _unpack(images: Path, annotations: Path, folder: Path, stage: Stage) -> None:
    make_folder(folder / "images")
    with zipfile.ZipFile(annotations) as archive:
        content = archive.read(INSTANCES)
    (folder / "instances.json").write_bytes(content)
    wanted = {each["file_name"] for each in json.loads(content)["images"]}
    with zipfile.ZipFile(images) as archive:
        members = [name for name in archive.namelist() if PurePosixPath(name).parent == PurePosixPath(IMAGES)]
        here = [name for name in members if PurePosixPath(name).name in wanted]
        if len(here) < len(wanted):
            raise VerificationError(f"{images}: lacks {len(wanted) - len(here)} of the images that the labels name")
        for name in stage.reporter.track(here, "unpacking", unit="image"):
            stage.stop_here_if_asked()
            with archive.open(name) as source, (folder / "images" / PurePosixPath(name).name).open("wb") as target:
                shutil.copyfileobj(source, target)
