"""All that is wrong with a run in containers: `python -m pipeline.preflight.container`, the service `check`."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from detectors.protocol import Detector
from detectors.registry import load_teacher, resolve_device
from detectors.source import checkpoint_digest
from eval_job.data import find_photographs, find_validation_data
from pipeline.plan import CALIBRATION_FOLDER, STUDENT_FOLDER
from pipeline.preflight.checks import bytes_free, bytes_needed, check_settings, check_sizes, read_validation
from pipeline.preflight.findings import gigabytes
from schemas.calibration_set import MANIFEST as SET_MANIFEST
from schemas.calibration_set import CalibrationSetManifest
from schemas.errors import InputError, ZsqError
from schemas.image_size import ImageSize
from schemas.provenance import Provenance
from schemas.run_config import RunConfig
from schemas.student import MANIFEST as STUDENT_MANIFEST
from schemas.student import StudentManifest
from schemas.synth_config import SynthConfig
from stages.container import unwritable
from stages.options import Assignments, GivenSet, Overwrite, RunConfigFile, read_config
from stages.output import Output
from stages.shards import open_calibration_set
from stages.stage import Stage, run_stage
from synth_job.given_labels import given_labels_digest

WITHOUT = "not looked at without the checkpoint"


class Checks:
    """Checks that each say what they found; one that fails does not keep the others from being made."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._rows: list[tuple[str, str]] = []
        self._wrong: list[ZsqError] = []

    def look(self, what: str, check: Callable[[], str]) -> None:
        """Make one check."""
        try:
            self._rows.append((what, check()))
        except ZsqError as error:
            self._found(what, error)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            self._found(what, InputError(f"{what}: {where}{error.strerror or error}; {unwritable(error)}"))

    def _found(self, what: str, error: ZsqError) -> None:
        self._rows.append((what, "WRONG, see below"))
        self._wrong.append(error)

    def conclude(self) -> None:
        """Show what was found.

        Raises:
            ZsqError: the last thing that is wrong; the others are reported.
        """
        self._stage.reporter.table("Check", ("", ""), self._rows)
        for error in self._wrong[:-1]:
            self._stage.reporter.error(str(error), error.exit_code)
        if self._wrong:
            raise self._wrong[-1]


class Run:
    """A run in containers, as its stages would see it."""

    def __init__(self, config: RunConfig, storage: Path, student: str, given_set: Path | None, overwrite: bool) -> None:
        self.config, self.storage, self.given_set, self.overwrite = config, storage, given_set, overwrite
        self.student = storage / student / STUDENT_FOLDER
        self.teacher: Detector | None = None
        self.set: CalibrationSetManifest | None = None

    def checkpoint(self) -> str:
        """Whether the detector loads."""
        self.teacher = load_teacher(self.config.teacher, resolve_device(self.config.synth.device))
        identity = self.teacher.identity
        return f"{self.config.teacher.path}: {identity.family}, {len(identity.class_names)} classes"

    def settings(self) -> str:
        """Whether sizes, layers, labels, devices and engines go with the detector."""
        if self.teacher is None:
            return WITHOUT
        check_sizes(self.config, self.teacher, self._size())
        check_settings(self.config, self.teacher, containers=False)
        return f"{self._size()} px, {self.config.qat.bits.name}"

    def data(self) -> str:
        """Whether the images can be read that evaluation measures on."""
        config = self.config.eval
        if self.teacher is None:  # as far as it goes without knowing the classes
            if config.labelled_data is not None:
                find_validation_data(config.labelled_data, config.images, config.split).check()
            if config.photos is not None:
                find_photographs(config.photos).images()
            return f"classes {WITHOUT}"
        validation, photos = read_validation(self.config, self.teacher)
        labelled = f"{len(validation.images)} labelled images" if validation else None
        seen = f"{len(photos)} photographs" if photos else None
        return ", ".join(filter(None, (labelled, seen))) or "no labelled images: agreement on images held back"

    def storage_space(self) -> str:
        """Whether the storage takes files, and as much as the run will write."""
        for folder in (self.storage, self.storage / CALIBRATION_FOLDER, self.student, self.student.parent):
            if folder.exists():
                try:
                    tempfile.TemporaryFile(dir=folder).close()
                except OSError as error:
                    reason = f"cannot be written ({error.strerror or error}); {unwritable(error)}"
                    raise InputError(f"storage {folder}: {reason}") from error
        free = bytes_free(self.storage)
        if self.teacher is None:
            return f"{self.storage}, {gigabytes(free)} free"
        needed = bytes_needed(self._synth(), self._size(), self.teacher)
        if free < needed:
            wants = f"{gigabytes(free)} are free and about {gigabytes(needed)} are needed"
            raise InputError(f"storage {self.storage}: {wants}; make room, or choose another one")
        return f"{self.storage}, about {gigabytes(needed)} of {gigabytes(free)} free"

    def calibration_set(self) -> str:
        """Whether a set is given, there, or another one in the way."""
        if self.given_set is not None:
            self.set = open_calibration_set(self.given_set).manifest
            if self.teacher and self.set.teacher.class_names != self.teacher.identity.class_names:
                raise InputError(f"{self.given_set}: made for a teacher with other classes; use its own set")
            return f"given, {self.set.samples} images, digest {self.set.digest[:12]}…"
        if self.teacher is None:
            return WITHOUT
        folder = self.storage / CALIBRATION_FOLDER
        inputs = {"teacher": checkpoint_digest(self.config.teacher)}
        if labels := self.config.synth.labels.path:
            inputs["labels"] = given_labels_digest(Path(labels))
        wanted = Provenance.of("synth", self._synth().keyed(), inputs)
        made = Output(folder / SET_MANIFEST, CalibrationSetManifest, wanted, self.overwrite)
        self.set = made.finished()
        if self.set is None:
            return "will be replaced" if made.present() else f"{self.config.synth.images} images will be made"
        return "is there"

    def finished_student(self) -> str:
        """Whether the student is there, or another one in the way."""
        path = self.student / STUDENT_MANIFEST
        if self.set is None or not path.exists():
            return "will be made" + (", in the place of the one that is there" if path.exists() else "")
        inputs = {"teacher": checkpoint_digest(self.config.teacher), "calibration_set": self.set.digest}
        wanted = Provenance.of("qat", self.config.qat.keyed(), inputs)
        return "is there" if Output(path, StudentManifest, wanted, self.overwrite).finished() else "will be replaced"

    def _synth(self) -> SynthConfig:
        synth = self.config.for_stage("synth")
        assert isinstance(synth, SynthConfig)
        return synth

    def _size(self) -> ImageSize:
        assert self.teacher is not None
        return self.config.synth.image_size or ImageSize.square(self.teacher.identity.input_size)


def main(
    run_config: RunConfigFile = None,
    assignments: Assignments = None,
    storage: Annotated[Path, typer.Option(help="folder of everything that is made")] = Path("/data"),
    student: Annotated[str, typer.Option(envvar="ZSQ_STUDENT", help="name of one of several students")] = "",
    given_set: GivenSet = None,
    overwrite: Overwrite = False,
) -> None:
    """Say in seconds what is wrong with the paths, the checkpoint, the data and the storage of a run."""
    with run_stage("check") as stage:
        config = read_config(RunConfig, run_config, assignments)
        run = Run(config, storage, student, given_set, overwrite)
        checks = Checks(stage)
        checks.look("checkpoint", run.checkpoint)
        checks.look("settings", run.settings)
        checks.look("data", run.data)
        checks.look("storage", run.storage_space)
        checks.look("calibration set", run.calibration_set)
        checks.look("student", run.finished_student)
        checks.conclude()


if __name__ == "__main__":
    typer.run(main)
