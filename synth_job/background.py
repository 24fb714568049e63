"""One piece of work at a time beside the main thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any


class InBackground:
    """A context whose block starts work in a thread and goes on; the block ends when the last of it has.

    At most one piece is under way: another one waits for it, so that memory holds no more than two. What a piece raises
    comes out where the next one is started, or at the end of the block unless that raises something itself.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._running: Future[Any] | None = None

    def __enter__(self) -> "InBackground":
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._pool.shutdown(wait=True)
        if kind is None:
            self._wait()

    def start(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Begin `work` once the piece before has ended."""
        self._wait()
        self._running = self._pool.submit(work, *arguments, **named)

    def _wait(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.result()
