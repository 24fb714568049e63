"""Entry point of the qat container: `python -m qat_job`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from detectors.source import checkpoint_digest
from qat_job.outputs import is_whole, student_output
from schemas.calibration_set import MANIFEST as SET_MANIFEST
from schemas.calibration_set import CalibrationSetManifest
from schemas.errors import InputError
from schemas.qat_config import QatConfig
from schemas.student import MANIFEST
from stages.options import Assignments, ConfigFile, GivenSet, Overwrite, RunConfigFile, read_stage_config
from stages.output import Job
from stages.ranks import Rank
from stages.stage import run_stage


def main(
    calibration_set: Annotated[Path, typer.Option(help="folder of the calibration set")],
    output: Annotated[Path, typer.Option(help="folder of the student")],
    config: ConfigFile = None,
    run_config: RunConfigFile = None,
    assignments: Assignments = None,
    overwrite: Overwrite = False,
    given_set: GivenSet = None,
) -> None:
    """Quantize a teacher and train it on a calibration set."""
    with run_stage("qat") as stage:
        rank = Rank.of_environment()
        calibration_set = given_set or calibration_set
        settings = read_stage_config("qat", QatConfig, config, run_config, assignments)
        if not (calibration_set / SET_MANIFEST).exists():
            raise InputError(
                f"{calibration_set}: no finished calibration set here; run synth, fetch a remote one with "
                "`zsq set pull`, or check --calibration-set"
            )
        set_manifest = CalibrationSetManifest.read(calibration_set / SET_MANIFEST)
        teacher = checkpoint_digest(settings.teacher)
        set_manifest.check_made_from(teacher, calibration_set, allow_other=settings.allow_other_teacher)
        inputs = {"teacher": teacher, "calibration_set": set_manifest.digest}
        made = student_output(settings, inputs, output, overwrite)
        with made.claim(stage, rank, whole=lambda student: is_whole(student, settings, output)) as is_wanted:
            if not is_wanted:
                stage.reporter.message(f"up to date: {output}")
                return

            # Loads torch, which an up-to-date run need not wait for.
            from qat_job import exported_files, replacement
            from qat_job.job import quantize

            if rank.index == 0:
                replacement.finish_move(output)
            place = output if made.finished() else replacement.workplace(output)
            made = replace(made, manifest=place / MANIFEST, named=output)
            if made.finished() is None:
                quantize(settings, calibration_set, Job(stage, made, rank))
            elif rank.index == 0:  # stopped between training and export, or trained for other targets
                exported_files.export_again(settings, calibration_set, place, stage)
                replacement.move_in(place)


if __name__ == "__main__":
    typer.run(main)
