"""Entry point of the synth container: `python -m synth_job`."""

from pathlib import Path
from typing import Annotated

import typer

from detectors.source import checkpoint_digest
from schemas.base import read_config_values, set_by_dotted_key, validate_config
from schemas.calibration_set import MANIFEST, CalibrationSetManifest
from schemas.provenance import Provenance
from schemas.stage import run_stage, up_to_date
from schemas.synth_config import SynthConfig
from synth_job.given_labels import given_labels_digest


def main(
    output: Annotated[Path, typer.Option(help="folder of the calibration set")],
    config: Annotated[Path | None, typer.Option(envvar="ZSQ_CONFIG", help="YAML file with a SynthConfig")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override one setting")] = None,
    overwrite: Annotated[bool, typer.Option(help="replace a set made with other settings")] = False,
) -> None:
    """Make a labelled calibration set from a teacher, without a real image."""
    with run_stage("synth") as stage:
        values = read_config_values(config) if config else {}
        for assignment in set_ or []:
            values = set_by_dotted_key(values, assignment)
        settings = validate_config(SynthConfig, values, str(config or "--set"))
        inputs = {"teacher": checkpoint_digest(settings.teacher)}
        if settings.labels.path:
            inputs["labels"] = given_labels_digest(Path(settings.labels.path))
        provenance = Provenance.of("synth", settings.keyed(), inputs)
        manifest = output / MANIFEST
        done = CalibrationSetManifest.read(manifest).provenance if manifest.exists() else None
        if up_to_date(done, provenance, output, overwrite):
            stage.reporter.message(f"up to date: {output}")
            return

        from synth_job.job import synthesize  # loads torch, which an up-to-date run need not wait for

        synthesize(settings, provenance, output, stage, overwrite=overwrite)


if __name__ == "__main__":
    typer.run(main)
