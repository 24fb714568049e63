"""Entry point of the sensitivity measurement: `python -m qat_job.sensitivity`."""

from pathlib import Path
from typing import Annotated

import typer

from schemas.base import read_config_values, set_by_dotted_key, validate_config
from schemas.calibration_set import MANIFEST as SET_MANIFEST
from schemas.errors import InputError
from schemas.qat_config import QatConfig
from schemas.stage import run_stage


def main(
    calibration_set: Annotated[Path, typer.Option(help="folder of the calibration set")],
    output: Annotated[Path, typer.Option(help="folder of sensitivity.json and plan.yaml")],
    config: Annotated[Path | None, typer.Option(envvar="ZSQ_CONFIG", help="YAML file with a QatConfig")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override one setting")] = None,
    overwrite: Annotated[bool, typer.Option(help="replace a measurement made with other settings")] = False,
) -> None:
    """Measure how much each layer suffers from quantization; with a target, plan mixed precision."""
    with run_stage("sensitivity") as stage:
        values = read_config_values(config) if config else {}
        for assignment in set_ or []:
            values = set_by_dotted_key(values, assignment)
        settings = validate_config(QatConfig, values, str(config or "--set"))
        if not (calibration_set / SET_MANIFEST).exists():
            raise InputError(
                f"{calibration_set}: no finished calibration set here; run synth, or check --calibration-set"
            )

        from qat_job.sensitivity.job import analyse  # loads torch, which a mistake in the settings need not wait for

        analyse(settings, calibration_set, output, overwrite, stage)


if __name__ == "__main__":
    typer.run(main)
