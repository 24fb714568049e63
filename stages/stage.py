"""How every stage behaves as a process: one line per error, exit codes, SIGTERM, one writer a folder."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from schemas.errors import ExitCode, InputError, Stopped, ZsqError
from stages.progress import Reporter, open_standard_streams
from stages.ranks import Rank

STOPPING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that ask a stage to stop where finished work is on disk; SIGHUP: its terminal is gone."""


class Stage:
    """A running stage: its reporter, and whether it was asked to stop."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reporter = Reporter(name)
        self._stop: ZsqError | None = None

    @property
    def stop_asked(self) -> bool:
        """Whether SIGTERM arrived: time to save what is at hand, before `stop_here_if_asked` raises."""
        return isinstance(self._stop, Stopped)

    def stop_here_if_asked(self) -> None:
        """Raise `Stopped` when SIGTERM arrived; call it where finished work is on disk.

        Raises:
            InputError: another process took the output folder over.
        """
        if self._stop is not None:
            raise self._stop

    def require_output(self) -> None:
        """Call before replacing finished work.

        Raises:
            InputError: another process took the output folder over.
        """
        if isinstance(self._stop, InputError):
            raise self._stop

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
        name = signal.Signals(signum).name
        self._stop = self._stop or Stopped(f"stopped by {name}; finished work is kept, run the same command to go on")

    @contextmanager
    def claim(self, folder: Path, key: str, rank: Rank, finished: Callable[[], bool]) -> Iterator[bool]:
        """Inside the block this process alone may write `folder` (and other ranks of the same run); True if it should.

        Args:
            folder: of the stage's output.
            key: provenance key of the run.
            rank: this process.
            finished: whether the output is there already; asked before the lock, which finished output does not need,
                and again under it.

        Raises:
            InputError: another process writes the folder, or it cannot be written.
        """
        if finished():
            yield False
            return
        from stages.lock import folder_lock

        with folder_lock(folder, self.name, key, rank, on_loss=self._lost, on_wait=self.reporter.message):
            yield not finished()

    def _lost(self, message: str) -> None:
        self._stop = InputError(message)


@contextmanager
def run_stage(name: str) -> Iterator[Stage]:
    """Run the block as stage `name`: expected errors become one line and their exit code, signals a clean stop."""
    open_standard_streams()
    stage = Stage(name)
    previous = {signum: signal.getsignal(signum) for signum in STOPPING}
    for signum, handler in previous.items():
        if handler != signal.SIG_IGN:  # as under nohup
            signal.signal(signum, stage.request_stop)
    interrupted = False
    try:
        yield stage
    except ZsqError as error:
        stage.reporter.error(str(error), error.exit_code)
        sys.exit(error.exit_code)
    except OSError as error:  # what a path or a disk made the system say where nobody expected it
        where = f"{error.filename}: " if error.filename else ""
        hint = "check who owns it and its folders" if isinstance(error, PermissionError) else "check the path"
        stage.reporter.error(f"{where}{error.strerror or error}; {hint}", ExitCode.BAD_INPUT)
        sys.exit(ExitCode.BAD_INPUT)
    except KeyboardInterrupt:
        interrupted = True
        stage.reporter.error("interrupted; finished work is kept, run the same command to go on", ExitCode.INTERRUPTED)
        sys.exit(ExitCode.INTERRUPTED)
    finally:
        # A process that is ending ends as it was asked to first, whatever else it is sent on the way out.
        ending = interrupted or stage.stop_asked
        for signum, handler in previous.items():
            signal.signal(signum, _ignore if ending else handler)


def _ignore(signum: int, frame: FrameType | None) -> None:
    """Handle a signal in a process that is ending. Not SIG_IGN, which a next stage would take for its caller's wish."""
