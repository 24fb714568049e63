"""Entry point of the qat container: `python -m qat_job`."""

from pathlib import Path
from typing import Annotated

import typer

from detectors.source import checkpoint_digest
from schemas.calibration_set import MANIFEST as SET_MANIFEST
from schemas.calibration_set import CalibrationSetManifest
from schemas.errors import InputError
from schemas.provenance import Provenance
from schemas.qat_config import QatConfig
from schemas.student import MANIFEST, StudentManifest, is_exported
from stages.options import Assignments, ConfigFile, Overwrite, RunConfigFile, read_stage_config
from stages.ranks import Rank
from stages.stage import run_stage, up_to_date


def main(
    calibration_set: Annotated[Path, typer.Option(help="folder of the calibration set")],
    output: Annotated[Path, typer.Option(help="folder of the student")],
    config: ConfigFile = None,
    run_config: RunConfigFile = None,
    assignments: Assignments = None,
    overwrite: Overwrite = False,
) -> None:
    """Quantize a teacher and train it on a calibration set."""
    with run_stage("qat") as stage:
        rank = Rank.of_environment()
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
        provenance = Provenance.of("qat", settings.keyed(), inputs)
        manifest = output / MANIFEST

        def trained() -> bool:
            done = StudentManifest.read(manifest).provenance if manifest.exists() else None
            return up_to_date(done, provenance, output, overwrite)

        def finished() -> bool:
            if not trained():
                return False
            exported = all(is_exported(output, target) for target in settings.targets)
            return exported or StudentManifest.read(manifest).export_obstacle is not None

        with stage.output(output, provenance.key, rank, finished) as wanted:
            if not wanted:
                stage.reporter.message(f"up to date: {output}")
                return

            from qat_job import exported_files, job  # loads torch, which an up-to-date run need not wait for

            if not trained():
                job.quantize(settings, provenance, calibration_set, output, stage, rank=rank, overwrite=overwrite)
            elif rank.index == 0:  # stopped between training and export, or trained for other targets
                exported_files.export_again(settings, calibration_set, output, stage)


if __name__ == "__main__":
    typer.run(main)
