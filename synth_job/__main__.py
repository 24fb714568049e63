"""Entry point of the synth container: `python -m synth_job`."""

from pathlib import Path
from typing import Annotated

import typer

from detectors.source import checkpoint_digest
from schemas.calibration_set import MANIFEST, CalibrationSetManifest
from schemas.provenance import Provenance
from schemas.synth_config import SynthConfig
from stages.options import Assignments, ConfigFile, Overwrite, RunConfigFile, read_stage_config
from stages.ranks import Rank
from stages.stage import run_stage, up_to_date
from synth_job.given_labels import given_labels_digest


def main(
    output: Annotated[Path, typer.Option(help="folder of the calibration set")],
    config: ConfigFile = None,
    run_config: RunConfigFile = None,
    assignments: Assignments = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a labelled calibration set from a teacher, without a real image."""
    with run_stage("synth") as stage:
        rank = Rank.of_environment()
        settings = read_stage_config("synth", SynthConfig, config, run_config, assignments)
        inputs = {"teacher": checkpoint_digest(settings.teacher)}
        if settings.labels.path:
            inputs["labels"] = given_labels_digest(Path(settings.labels.path))
        provenance = Provenance.of("synth", settings.keyed(), inputs)
        manifest = output / MANIFEST

        def finished() -> bool:
            done = CalibrationSetManifest.read(manifest).provenance if manifest.exists() else None
            return up_to_date(done, provenance, output, overwrite)

        with stage.output(output, provenance.key, rank, finished) as wanted:
            if not wanted:
                stage.reporter.message(f"up to date: {output}")
                return

            from synth_job.job import synthesize  # loads torch, which an up-to-date run need not wait for

            synthesize(settings, provenance, output, stage, rank=rank, overwrite=overwrite)


if __name__ == "__main__":
    typer.run(main)
