"""The environment of its own in which LiteRT files are made and run: its Python, named by an environment variable.

LiteRT's converter wants another PyTorch than ours. The package `converter` beside this module runs there.
"""

import functools
import os
import subprocess
from pathlib import Path

from schemas.errors import ConfigError, VerificationError

ENVIRONMENT = "ZSQ_LITERT_PYTHON"
"""Environment variable that names the Python of the converter's environment."""
HERE = Path(__file__).parent
VERSION = "import ai_edge_litert.interpreter, importlib.metadata as m; print(m.version('ai-edge-litert'))"


def converter_python() -> Path | None:
    """The Python of the converter's environment, where it was made and named; None where it was not."""
    python = os.environ.get(ENVIRONMENT)
    return Path(python) if python else None


def litert_version() -> str | None:
    """Version of the interpreter that is here; None where the environment is not named or does not run."""
    python = converter_python()
    return None if python is None else _version_in(python)


def how_to_make() -> str:
    """What to do where the environment is missing, for an error line."""
    wanted = f"set {ENVIRONMENT} to the Python of an environment made as {HERE / 'requirements.txt'} says"
    python = converter_python()
    return wanted if python is None else f"{ENVIRONMENT} is {python}, which does not run LiteRT: {wanted}"


def command(module: str, *arguments: str) -> list[str]:
    """The command line of a module of the package `converter`.

    Raises:
        ConfigError: the environment is not named.
    """
    python = converter_python()
    if python is None:
        raise ConfigError(f"LiteRT files are made and run in an environment of their own: {how_to_make()}")
    return [str(python), "-P", "-m", module, *arguments]


def variables() -> dict[str, str]:
    """Environment variables of such a process."""
    return os.environ | {"PYTHONPATH": str(HERE), "TF_CPP_MIN_LOG_LEVEL": "3"}


def run_module(module: str, *arguments: str) -> str:
    """Run a module of the package `converter` to its end; what it printed.

    Raises:
        ConfigError: the environment is not named, or its Python does not run.
        VerificationError: the module failed.
    """
    line = command(module, *arguments)
    try:
        done = subprocess.run(line, env=variables(), capture_output=True, text=True, check=False)
    except OSError as error:
        raise does_not_run(error) from error
    if done.returncode:
        raise VerificationError(f"the LiteRT {module.replace('.', ' ')} failed: {last_line(done.stderr)}")
    return done.stdout


def does_not_run(error: OSError) -> ConfigError:
    """The error of a Python that cannot be started."""
    return ConfigError(f"{how_to_make()} ({error.strerror or error})")


def last_line(said: str) -> str:
    """What a process that failed said last."""
    lines = said.strip().splitlines() or ["it said nothing"]
    return lines[-1][:300]


@functools.cache
def _version_in(python: Path) -> str | None:
    try:
        done = subprocess.run([python, "-P", "-c", VERSION], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
