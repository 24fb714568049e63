"""Reading one mutated thing after another, on a leash of time and memory, and what became of each."""

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from schemas.errors import ZsqError

SECONDS = 60
"""Of one case, after which it counts as a hang; far more than any takes, since other work may share the machine."""
MEMORY_BYTES = 512 * 2**20
"""What reading one case may take beyond what the process has."""


class LeashBreak(BaseException):
    """A case took too long; no `except Exception` may catch it."""


class HarmError(AssertionError):
    """What loaded is not what it says: not finite, or of another shape."""


@dataclass
class Outcomes:
    """What became of the cases of one kind and family."""

    kind: str
    family: str
    loaded: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)
    memory_bytes: int = 0
    seconds: float = 0.0

    def row(self) -> str:
        """As a line of the table in docs/reliability.md."""
        tried = self.loaded + self.refused + len(self.failures)
        return (
            f"| {self.kind} | {self.family} | {tried:,} | {self.loaded:,} | {self.refused:,} | {len(self.failures)} | "
            f"{self.memory_bytes / 2**20:.0f} MiB | {self.seconds:.1f} s |"
        )


HEAD = (
    "| kind | family | tried | loaded | refused | tracebacks | most memory | longest, processor |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def measure(outcomes: Outcomes, case: int, said: str, read: Callable[[], object]) -> None:
    """Read a case; a typed error of one line is a refusal, anything else but a harmless value a failure."""
    start, before = time.process_time(), _reset_peak()
    refused, failure = False, ""
    try:
        with _leash():
            read()
    except ZsqError as error:
        refused = True
        text = str(error)
        if "\n" in text or len(text) > 2000:
            failure = f"not one line: {text[:300]!r}"
        elif _out_of_memory(error):
            failure = f"took all memory that it was allowed: {text[:200]}"
    except (Exception, LeashBreak) as error:
        failure = f"{type(error).__name__}: {str(error)[:300]}{_place(error)}"
    taken = max(_peak() - before, 0)
    outcomes.memory_bytes = max(outcomes.memory_bytes, taken)
    outcomes.seconds = max(outcomes.seconds, time.process_time() - start)
    if taken > MEMORY_BYTES and not failure:
        failure = f"took {taken >> 20} MiB"
    if failure:
        outcomes.failures.append(f"case {case} of {outcomes.kind}, {outcomes.family} ({said}): {failure}")
    elif refused:
        outcomes.refused += 1
    else:
        outcomes.loaded += 1


def _place(error: BaseException) -> str:
    """The line that raised an error."""
    trace = error.__traceback__
    lines = []
    while trace is not None:
        lines.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f" at {' < '.join(lines[-4:])}"


def _out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            return True
        error = error.__cause__
    return False


@contextmanager
def _leash() -> Iterator[None]:
    def bark(*_: object) -> None:
        raise LeashBreak(f"still at it after {SECONDS} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, bark)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * MEMORY_BYTES, hard))  # what is reserved need not be used
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _reset_peak() -> int:
    """Let the kernel begin a new peak of this process's memory; what it has now, bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
