"""The checks before a run as a process of their own: torch and what it holds are gone before the work starts."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.preflight.findings import Findings
from schemas.errors import ConfigError, ExitCode, InputError, VerificationError, ZsqError
from schemas.run_config import RunConfig
from schemas.text import printable
from stages.options import CONFIGURATION_VARIABLES

ERRORS: dict[int, type[ZsqError]] = {
    ExitCode.BAD_INPUT: InputError,
    ExitCode.UNVERIFIED: VerificationError,
}


def preflight(config: RunConfig, *, containers: bool) -> Findings:
    """Check a run and measure how long it will take, before any of it starts.

    Args:
        config: of the run.
        containers: stages run elsewhere: devices and engines are not those of this machine.

    Raises:
        ConfigError, InputError: the run would fail.
    """
    environment = {name: value for name, value in os.environ.items() if name not in CONFIGURATION_VARIABLES}
    with tempfile.TemporaryDirectory(prefix="zsq-") as folder:
        settings, result = Path(folder) / "run.json", Path(folder) / "findings.json"
        settings.write_text(config.to_json(), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "pipeline.preflight", str(settings), str(result)]
        finished = subprocess.run(
            [*command, *(["--containers"] if containers else [])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
            check=False,
        )
        if finished.returncode == ExitCode.DONE:
            return Findings.read(result)
    lines = [line for line in finished.stderr.splitlines() if line.startswith("zsq run: ")]
    if finished.returncode in ERRORS and lines:
        raise ERRORS[finished.returncode](lines[-1].removeprefix("zsq run: "))
    sys.stderr.write(printable(finished.stderr, keep="\n"))
    if finished.returncode < 0:
        raise ConfigError(
            f"the checks before the run were killed by signal {-finished.returncode}, most often for lack of memory; "
            "lower image_size"
        )
    raise ZsqError("the checks before the run failed: a bug, please report the traceback above")
