"""Entry point of the sensitivity measurement: `python -m qat_job.sensitivity`."""

from pathlib import Path
from typing import Annotated

import typer

from detectors.source import checkpoint_digest
from schemas.calibration_set import MANIFEST as SET_MANIFEST
from schemas.calibration_set import CalibrationSetManifest
from schemas.errors import InputError
from schemas.qat_config import QatConfig
from stages.options import Assignments, ConfigFile, Overwrite, RunConfigFile, read_stage_config
from stages.ranks import Rank
from stages.stage import run_stage


def main(
    calibration_set: Annotated[Path, typer.Option(help="folder of the calibration set")],
    output: Annotated[Path, typer.Option(help="folder of sensitivity.json and plan.yaml")],
    config: ConfigFile = None,
    run_config: RunConfigFile = None,
    assignments: Assignments = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure how much each layer suffers from quantization; with a target, plan mixed precision."""
    with run_stage("sensitivity") as stage:
        rank = Rank.of_environment()
        rank.must_be_alone("sensitivity")
        settings = read_stage_config("qat", QatConfig, config, run_config, assignments)
        if not (calibration_set / SET_MANIFEST).exists():
            raise InputError(
                f"{calibration_set}: no finished calibration set here; run synth, fetch a remote one with "
                "`zsq set pull`, or check --calibration-set"
            )
        set_manifest = CalibrationSetManifest.read(calibration_set / SET_MANIFEST)
        teacher = checkpoint_digest(settings.teacher)
        set_manifest.check_made_from(teacher, calibration_set, allow_other=settings.allow_other_teacher)

        from qat_job.sensitivity.job import analyse  # loads torch, which a mistake in the settings need not wait for

        with stage.claim(output, "sensitivity", rank, finished=lambda: False):
            analyse(settings, calibration_set, output, overwrite, stage)


if __name__ == "__main__":
    typer.run(main)
