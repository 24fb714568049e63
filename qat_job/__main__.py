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
from stages.options import Assignments, ConfigFile, GivenSet, Overwrite, RunConfigFile, read_stage_config
from stages.ranks import Rank
from stages.stage import run_stage, up_to_date


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
        inputs = {"teacher": checkpoint_digest(settings.teacher), "calibration_set": set_manifest.digest}
        provenance = Provenance.of("qat", settings.keyed(), inputs)

        def trained(folder: Path) -> bool:
            manifest = folder / MANIFEST
            done = StudentManifest.read(manifest).provenance if manifest.exists() else None
            return up_to_date(done, provenance, output, overwrite)

        def finished() -> bool:
            if not trained(output):
                return False
            exported = all(is_exported(output, target) for target in settings.targets)
            return exported or StudentManifest.read(output / MANIFEST).export_obstacle is not None

        with stage.output(output, provenance.key, rank, finished) as wanted:
            if not wanted:
                stage.reporter.message(f"up to date: {output}")
                return

            # Loads torch, which an up-to-date run need not wait for.
            from qat_job import exported_files, job, replacement

            if rank.index == 0:
                replacement.finish_move(output)
            place = output if trained(output) else replacement.workplace(output)
            if not trained(place):
                job.quantize(settings, provenance, calibration_set, place, stage, rank=rank, overwrite=overwrite)
            elif rank.index == 0:  # stopped between training and export, or trained for other targets
                exported_files.export_again(settings, calibration_set, place, stage)
                replacement.move_in(place)


if __name__ == "__main__":
    typer.run(main)
