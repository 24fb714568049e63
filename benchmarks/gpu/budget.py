"""Work within a budget of time: what fails or does not fit is recorded in a line, and what comes next still runs."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

LEAST = 1.0
"""Seconds; with less left, nothing is begun."""
AGAIN = 1.0
"""Seconds between two tries to end a piece of work whose time is over."""
LONGEST_REASON = 200


class OutOfTime(BaseException):
    """The time of a piece of work is over; no handler of errors on the way takes it for one."""


@dataclass(frozen=True)
class Outcome:
    """What came of one piece of work.

    Attributes:
        name: of the work.
        reason: why there are no values, in a line; None: there are.
        values: what it measured.
        seconds: that it took, all of it.
    """

    name: str
    reason: str | None
    values: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class Budget:
    """Seconds for everything, and for any one piece of work.

    Args:
        seconds: for everything, from now on.
        each: for one piece of work.
    """

    def __init__(self, seconds: float, each: float) -> None:
        self._end = time.monotonic() + seconds
        self._each = each

    def run(self, name: str, work: Callable[[], dict[str, Any]]) -> Outcome:
        """Do the work, unless the budget is spent; no exception but an interruption leaves it."""
        left = self._end - time.monotonic()
        if left < LEAST:
            return Outcome(name, "skipped: the budget of time is spent")
        start = time.monotonic()
        try:
            with deadline(min(left, self._each)):
                values = work()
        except OutOfTime:
            taken = time.monotonic() - start
            return Outcome(name, f"not finished within {taken:.0f} s", seconds=round(taken, 1))
        except Exception as error:  # a variant that does not work here is a result, too
            return Outcome(name, one_line(error), seconds=round(time.monotonic() - start, 1))
        return Outcome(name, None, values, round(time.monotonic() - start, 1))


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises `OutOfTime` inside the block when its time is over; of the main thread.

    It is raised again every second until the block ends: what is raised in the callback of a weak reference is lost.
    """

    def end(signum: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def one_line(error: Exception) -> str:
    """Kind and first line of an error."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:LONGEST_REASON].rstrip(": ")
