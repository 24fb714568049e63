"""How every stage behaves as a process: one line per error, exit codes, SIGTERM, "up to date"."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from schemas.errors import ConfigError, ExitCode, Stopped, ZsqError
from schemas.progress import Reporter
from schemas.provenance import Provenance


class Stage:
    """A running stage: its reporter, and whether it was asked to stop."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reporter = Reporter(name)
        self._stop_requested = False

    def stop_here_if_asked(self) -> None:
        """Raise `Stopped` when SIGTERM arrived; call it where finished work is on disk."""
        if self._stop_requested:
            raise Stopped("stopped by SIGTERM; finished work is kept, run the same command to go on")

    def counter(self, total: int, task: str, unit: str) -> Callable[[], None]:
        """A function to call after each of `total` steps: shows progress, and raises `Stopped` when SIGTERM arrived."""
        steps = self.reporter.track(range(total), task, unit)
        next(steps, None)

        def advance() -> None:
            next(steps, None)
            self.stop_here_if_asked()

        return advance

    def request_stop(self, signum: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        """Signal handler: remember the request; the stage stops at its next safe point."""
        self._stop_requested = True


@contextmanager
def run_stage(name: str) -> Iterator[Stage]:
    """Run the block as stage `name`: expected errors become one line and their exit code, SIGTERM a clean stop."""
    stage = Stage(name)
    previous = signal.signal(signal.SIGTERM, stage.request_stop)
    try:
        yield stage
    except ZsqError as error:
        stage.reporter.error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        stage.reporter.error("interrupted; finished work is kept, run the same command to go on")
        sys.exit(ExitCode.INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, previous)


def up_to_date(done: Provenance | None, wanted: Provenance, folder: Path, overwrite: bool) -> bool:
    """Whether `folder` already holds the finished output of `wanted`.

    Args:
        done: provenance of the finished output in the folder, None where there is none.
        wanted: provenance of the stage about to run.
        folder: named in the error.
        overwrite: the user's leave to replace a different output.

    Raises:
        ConfigError: the folder holds the output of something else and `overwrite` is not set.
    """
    if done is None:
        return False
    if done.key == wanted.key:
        return True
    if overwrite:
        return False
    differences = "; ".join(done.differences(wanted)) or "the version of the contracts"
    raise ConfigError(
        f"{folder} holds the output of another {wanted.stage} run ({differences}); "
        f"choose another folder, or replace it with --overwrite"
    )
