"""What `zsq run` does, from Python: for notebooks and scripts.

from pipeline import run

made = run("best.pt", bits="w8a8", images=32)
print(made.evaluation.models[-1].precision.map50_95, made.exported)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from pipeline.conductor import conduct
from pipeline.executor_names import ExecutorName
from pipeline.plan import CALIBRATION_FOLDER, EVAL_FOLDER, STUDENT_FOLDER
from pipeline.settings import RunOptions, assignment, read_run_config
from schemas.calibration_set import MANIFEST as SET_MANIFEST
from schemas.calibration_set import CalibrationSetManifest
from schemas.errors import ExitCode, InputError, RequirementMissed, Stopped, VerificationError, ZsqError
from schemas.evaluation import PAGE, REPORT, EvalReport
from schemas.files import expanded
from schemas.image_size import ImageSize
from schemas.student import MANIFEST as STUDENT_MANIFEST
from schemas.student import StudentManifest
from schemas.target import Target, exported_path
from stages.stage import Stage

ERRORS: dict[int, type[ZsqError]] = {
    ExitCode.BAD_INPUT: InputError,
    ExitCode.UNVERIFIED: VerificationError,
    ExitCode.NOT_MET: RequirementMissed,
    ExitCode.STOPPED: Stopped,
}


class Options(TypedDict, total=False):
    """What the command line has as options; see `pipeline.settings.RunOptions`."""

    bits: str
    budget: float
    images: int
    size: int | str | ImageSize
    data: str | Path
    photos: str | Path
    targets: Sequence[str]


@dataclass(frozen=True)
class RunResult:
    """A finished run: where everything is, and its figures.

    Attributes:
        folder: of the run.
        calibration_set: folder of the synthetic set.
        student: folder of the student.
        exported: the exported models, to be deployed.
        report: the HTML page.
        set_manifest: what is known of the set.
        student_manifest: what is known of the student.
        evaluation: the figures of every model, by name; its `measure` says whether they are accuracy or agreement.
    """

    folder: Path
    calibration_set: Path
    student: Path
    exported: tuple[Path, ...]
    report: Path
    set_manifest: CalibrationSetManifest
    student_manifest: StudentManifest
    evaluation: EvalReport


def run(
    source: str | Path | None = None,
    *,
    output: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    executor: str = "local",
    max_drop: float | None = None,
    **options: Unpack[Options],
) -> RunResult:
    """Run the whole pipeline on a detector, as `zsq run` does; what is finished is not repeated.

    Args:
        source: checkpoint file, published name or YAML file of a run; None takes the embedded detector.
        output: folder of everything that is made; None takes `runs/<name of the checkpoint>`.
        settings: every other setting by its dotted key, as in `{"qat.steps": 500}`.
        overwrite: replace what was made with other settings.
        executor: `local` or `docker`.
        max_drop: points of mAP50-95 that may be lost, 0.01 to 100: the fewest bits that hold are found by trying.
        **options: `bits`, `budget`, `images`, `size`, `data`, `photos`, `targets`, as on the command line.

    Raises:
        ConfigError: a setting is not valid, or two of them contradict each other.
        InputError: the detector or the data cannot be used.
        VerificationError: an artifact does not match its digest.
        RequirementMissed: everything is made, but the student falls short of `eval.require`.
        Stopped: a stage was asked to stop; the same call goes on from there.
    """
    given = [assignment(key, value) for key, value in (settings or {}).items()]
    chosen = RunOptions(**options, max_drop=max_drop)
    chosen.check_against(given, source, output)
    config = read_run_config(source, [*given, *chosen.assignments()], None if output is None else Path(output))
    code = conduct(config, ExecutorName(executor), overwrite, Stage("run"), max_drop)
    if code != ExitCode.DONE:
        raise ERRORS.get(code, ZsqError)(f"a stage of the run ended with exit code {code}; its last line says why")
    return result_of(config.storage)


def result_of(storage: str | Path) -> RunResult:
    """What lies in the folder of a finished run.

    Raises:
        InputError: it is not finished.
    """
    folder = expanded(storage)
    calibration_set, student, evaluation = (folder / name for name in (CALIBRATION_FOLDER, STUDENT_FOLDER, EVAL_FOLDER))
    files = [exported_path(student, target) for target in Target]
    return RunResult(
        folder=folder,
        calibration_set=calibration_set,
        student=student,
        exported=tuple(path for path in files if path.is_file()),
        report=evaluation / PAGE,
        set_manifest=CalibrationSetManifest.read(calibration_set / SET_MANIFEST),
        student_manifest=StudentManifest.read(student / STUDENT_MANIFEST),
        evaluation=EvalReport.read(evaluation / REPORT),
    )
