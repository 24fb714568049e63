"""`python -m pipeline.preflight CONFIG RESULT`: check a run and write what was found. Loads torch; `zsq` need not."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.preflight.checks import examine
from schemas.base import read_config_values, validate_config
from schemas.run_config import RunConfig
from stages.stage import run_stage
from stages.storage import write_text


def main(
    config: Annotated[Path, typer.Argument(help="the run's configuration")],
    result: Annotated[Path, typer.Argument(help="where the findings go, as JSON")],
    containers: Annotated[bool, typer.Option(help="stages run elsewhere")] = False,
) -> None:
    """Check a run before it starts."""
    with run_stage("run"):
        values = validate_config(RunConfig, read_config_values(config), "the run")
        write_text(result, examine(values, containers=containers).to_json())


if __name__ == "__main__":
    typer.run(main)
