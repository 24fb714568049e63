"""What an evaluation is about to do, resolved from what was asked, before anything is computed. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectors.source import checkpoint_digest
from eval_job.data import Sources, find_sources
from eval_job.report.artifacts import check_calibration_set
from schemas.calibration_set import HELD_BACK_FOLDER
from schemas.calibration_set import MANIFEST as SET_MANIFEST
from schemas.errors import ConfigError, InputError
from schemas.eval_config import EvalConfig
from schemas.image_size import ImageSize
from schemas.provenance import Provenance
from schemas.student import MANIFEST, PTQ_FOLDER, OnnxManifest, StudentManifest, onnx_manifest_path
from schemas.target import Target, exported_path

NOT_IN_KEY = {"teacher", "data", "images", "split", "photos", "allow_other_teacher", "device", "batch", "require"}
"""Settings that do not change the result: locations, whose content the digests cover, how it is computed, and what is
required of it, which is judged anew."""


@dataclass(frozen=True)
class Evaluation:
    """An evaluation as it was asked for, with nothing left open.

    Attributes:
        settings: with the image size that the students were made at, where none was set.
        students: manifest of each student by its folder, each after its own state before training.
        sources: what there is to measure on.
        digests: of the sources by role, labelled images first.
        provenance: of the report.
        shown: the calibration set that the report shows, or None.
    """

    settings: EvalConfig
    students: Mapping[Path, StudentManifest]
    sources: Sources
    digests: Mapping[str, str]
    provenance: Provenance
    shown: Path | None = None


@dataclass(frozen=True)
class Given:
    """The sets that an evaluation is given.

    Attributes:
        calibration_set: that synth made, and the students with it; None where it is not to be shown.
        given_set: takes its place.
        held_back: to measure agreement on; None for what is held back in the others.
    """

    calibration_set: Path | None = None
    given_set: Path | None = None
    held_back: Path | None = None

    @property
    def shown(self) -> Path | None:
        """The set that the report shows: the one in the other's place, where there is one."""
        return self.given_set or self.calibration_set

    def images_held_back(self) -> Path | None:
        """Folder of the images held back: those named, else of the given set, else those that synth made."""
        if self.held_back is not None:
            return self.held_back
        made = self.calibration_set and self.calibration_set / HELD_BACK_FOLDER
        if self.given_set is None:
            return made
        own = self.given_set / HELD_BACK_FOLDER
        return own if made is None or (own / SET_MANIFEST).exists() else made


def resolve(settings: EvalConfig, students: Sequence[Path], given: Given) -> Evaluation:
    """Find and check everything that an evaluation reads.

    Args:
        settings: as asked.
        students: folders of finished students.
        given: the sets.

    Raises:
        ConfigError: the settings do not fit together.
        InputError: something is missing, or was made from another teacher.
    """
    teacher_digest = checkpoint_digest(settings.teacher)
    manifests = {folder: StudentManifest.read(folder / MANIFEST) for folder in _with_ptq(students)}
    _check_teacher(manifests, teacher_digest)
    if given.shown is not None:
        check_calibration_set(given.shown, list(manifests.values()))
    settings = settings.model_copy(update={"image_size": _image_size(settings.image_size, manifests)})
    sources = find_sources(settings, given.images_held_back(), list(manifests.values()), teacher_digest)
    digests = sources.digests()
    inputs = {"teacher": teacher_digest} | digests
    inputs |= {f"student {n}": manifest.weights_sha256 for n, manifest in enumerate(manifests.values(), start=1)}
    if settings.onnx.models != "none":
        inputs |= _exported(list(manifests))
    provenance = Provenance.of("eval", settings.model_dump(mode="json", exclude=NOT_IN_KEY), inputs)
    return Evaluation(settings, manifests, sources, digests, provenance, given.shown)


def _with_ptq(students: Sequence[Path]) -> list[Path]:
    """Each student folder, after its own state before training where that was kept."""
    folders: list[Path] = []
    for student in students:
        ptq = student / PTQ_FOLDER
        folders += [ptq, student] if ptq.is_dir() else [student]
    return list(dict.fromkeys(folders))


def _exported(folders: Sequence[Path]) -> dict[str, str]:
    """Digest of each exported model of each student, by role.

    Raises:
        InputError: a model lies without its manifest, or a manifest without its model.
    """
    digests: dict[str, str] = {}
    for number, folder in enumerate(folders, start=1):
        for target in Target:
            path = exported_path(folder, target)
            manifest = onnx_manifest_path(path)
            if path.exists() != manifest.exists():
                there, missing = sorted((path, manifest), key=Path.exists, reverse=True)
                raise InputError(
                    f"{missing}: is missing beside {there.name}; run zsq export --overwrite, or set onnx.models: none"
                )
            if path.exists():
                digests[f"student {number} {target.value}"] = OnnxManifest.read(manifest).computes
    return digests


def _check_teacher(manifests: Mapping[Path, StudentManifest], teacher_digest: str) -> None:
    for folder, manifest in manifests.items():
        if manifest.teacher.sha256 != teacher_digest:
            raise InputError(
                f"student {folder}: was made from another teacher (sha256 {manifest.teacher.sha256[:12]}…, "
                f"this one is {teacher_digest[:12]}…); set teacher.path to its own teacher"
            )


def _image_size(configured: ImageSize | None, manifests: Mapping[Path, StudentManifest]) -> ImageSize | None:
    """The configured size, else that of the students' calibration sets; None leaves it to the teacher."""
    sizes = {manifest.calibration_set.image_size for manifest in manifests.values()}
    if configured is None and len(sizes) > 1:
        raise ConfigError(
            f"image_size: not set, and the students were made at different sizes ({', '.join(map(str, sorted(sizes)))} "
            "pixels); set image_size to one of them, or evaluate the students apart"
        )
    return configured or next(iter(sizes), None)
