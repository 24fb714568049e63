"""Which stages of a run are done already, and whether one would be refused; told from manifests, without torch."""

from pathlib import Path

from eval_job.resolution import Given, resolve
from pipeline.plan import StageCommand
from qat_job.outputs import is_whole, student_output
from schemas.eval_config import EvalConfig
from schemas.evaluation import REPORT, EvalReport
from schemas.qat_config import QatConfig
from schemas.student import MANIFEST as STUDENT_MANIFEST
from schemas.student import StudentManifest
from schemas.synth_config import SynthConfig
from stages.output import Output
from synth_job.outputs import inputs_of, set_output, sets_of


def finished_stages(commands: tuple[StageCommand, ...], overwrite: bool) -> tuple[str, ...]:
    """The first stages of a run whose output is there, made with these very settings.

    Args:
        commands: of synth, qat and eval.
        overwrite: the user's leave to replace what was made with other settings.

    Raises:
        ConfigError: a folder holds the output of other settings, and `overwrite` is not set.
        InputError: an input of a stage is missing.
        VerificationError: a manifest cannot be read.
    """
    synth, qat, evaluation = commands
    assert isinstance(synth.config, SynthConfig) and isinstance(qat.config, QatConfig)
    assert isinstance(evaluation.config, EvalConfig)
    inputs = inputs_of(synth.config)
    sets = [set_output(asked, inputs, place, overwrite) for place, asked in sets_of(synth.config, synth.output).items()]
    calibration_set, *held_back = [each.finished() for each in sets]
    if calibration_set is None or None in held_back:
        _check_settings(qat.config, qat.output, overwrite)
        return ()
    made_from = {"teacher": inputs["teacher"], "calibration_set": calibration_set.digest}
    student = student_output(qat.config, made_from, qat.output, overwrite).finished()
    if student is None or not is_whole(student, qat.config, qat.output):
        return ("synth",)
    wanted = resolve(evaluation.config, [qat.output], Given(synth.output, None, None)).provenance
    report = Output(evaluation.output / REPORT, EvalReport, wanted, overwrite)
    return ("synth", "qat") if report.finished() is None else ("synth", "qat", "eval")


def _check_settings(settings: QatConfig, folder: Path, overwrite: bool) -> None:
    """Check that a student that is there was made with the settings of the run, its calibration set aside.

    Raises:
        ConfigError: it was not, and `overwrite` is not set: better told now than after the set is made.
    """
    if (folder / STUDENT_MANIFEST).exists():
        made_from = StudentManifest.read(folder / STUDENT_MANIFEST).provenance.inputs
        student_output(settings, made_from, folder, overwrite).finished()
