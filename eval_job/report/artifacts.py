"""Everything a page is made from, read and checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval_job.report.step_sizes import LayerSteps, layer_steps
from schemas.calibration_set import MANIFEST as SET_MANIFEST
from schemas.calibration_set import CalibrationSetManifest
from schemas.errors import InputError
from schemas.evaluation import EvalReport
from schemas.search import SEARCH, SearchReport
from schemas.sensitivity import SENSITIVITY, SensitivityReport
from schemas.student import MANIFEST, PTQ_FOLDER, StudentManifest
from stages.shards import CalibrationSet, open_calibration_set


@dataclass(frozen=True)
class StudentArtifacts:
    """A student as its folder holds it.

    Attributes:
        name: of its row in the evaluation.
        manifest: its manifest.
        steps: its step sizes.
        steps_before: those before training; empty where that state was not kept.
        sensitivity: of its layers, where it was measured.
        search: what was tried before it was kept, where its bits were searched for.
    """

    name: str
    manifest: StudentManifest
    steps: list[LayerSteps]
    steps_before: list[LayerSteps]
    sensitivity: SensitivityReport | None
    search: SearchReport | None = None


@dataclass(frozen=True)
class Artifacts:
    """An evaluation with what is known of its students and their calibration set."""

    report: EvalReport
    folder: Path
    students: list[StudentArtifacts]
    calibration_set: CalibrationSet | None


def read_artifacts(
    report: EvalReport, folder: Path, students: Sequence[Path], calibration_set: Path | None
) -> Artifacts:
    """Read what belongs to an evaluation.

    Args:
        report: the evaluation.
        folder: where its sample pictures lie.
        students: folders that qat wrote.
        calibration_set: the set that one of them was made with, or None.

    Raises:
        InputError: something is missing, or belongs to another evaluation.
        VerificationError: an artifact does not match its digest or contract.
    """
    read = [_read_student(student, report) for student in students]
    opened = None
    if calibration_set is not None:
        check_calibration_set(calibration_set, [student.manifest for student in read])
        opened = open_calibration_set(calibration_set)
        teacher = report.models[0].weights_sha256
        if not read and opened.manifest.teacher.sha256 != teacher:
            raise InputError(
                f"{calibration_set}: was made for another teacher (sha256 {opened.manifest.teacher.sha256[:12]}…, the "
                f"evaluation's is {teacher[:12]}…); give a set of this teacher, or leave --calibration-set out"
            )
    return Artifacts(report, folder, read, opened)


def check_calibration_set(folder: Path, students: Sequence[StudentManifest]) -> None:
    """Check that a set is the one that a student was made with; without a student, that it is there.

    Raises:
        InputError: it is not.
        VerificationError: its manifest is not valid.
    """
    if not (folder / SET_MANIFEST).exists():
        raise InputError(f"{folder}: no finished calibration set here; check --calibration-set")
    digest = CalibrationSetManifest.read(folder / SET_MANIFEST).digest
    if students and digest not in {student.calibration_set.digest for student in students}:
        raise InputError(
            f"{folder}: no student here was made with this calibration set (digest {digest[:12]}…, "
            f"the first student's is {students[0].calibration_set.digest[:12]}…); give the student's own set"
        )


def _read_student(folder: Path, report: EvalReport) -> StudentArtifacts:
    manifest = StudentManifest.read(folder / MANIFEST)
    rows = [model.name for model in report.models if model.weights_sha256 == manifest.weights_sha256]
    if not rows:
        raise InputError(f"student {folder}: is not in this evaluation; evaluate it, or leave it out of the report")
    before = folder / PTQ_FOLDER
    return StudentArtifacts(
        name=rows[0],
        manifest=manifest,
        steps=layer_steps(folder, manifest),
        steps_before=(
            layer_steps(before, StudentManifest.read(before / MANIFEST)) if (before / MANIFEST).exists() else []
        ),
        sensitivity=read_sensitivity(folder, manifest),
        search=_read_search(folder, manifest),
    )


def read_sensitivity(folder: Path, student: StudentManifest) -> SensitivityReport | None:
    """What was measured of the student's layers; None where nothing was, or of another teacher, set or policy."""
    if not (folder / SENSITIVITY).exists():
        return None
    measured = SensitivityReport.read(folder / SENSITIVITY)
    theirs = (measured.teacher.sha256, measured.calibration_set.digest, measured.policy)
    return measured if theirs == (student.teacher.sha256, student.calibration_set.digest, student.bits.policy) else None


def _read_search(folder: Path, student: StudentManifest) -> SearchReport | None:
    """What was tried before this student was kept; None where it was not searched for."""
    if not (folder / SEARCH).exists():
        return None
    found = SearchReport.read(folder / SEARCH)
    return found if found.kept == student.weights_sha256 else None
