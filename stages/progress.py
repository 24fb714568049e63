"""How a stage tells people and programs what it does: bars on a terminal, JSON lines elsewhere."""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from schemas.errors import InputError
from schemas.text import printable, redacted, shown

if TYPE_CHECKING:  # loaded where something is drawn on a terminal
    from rich.console import Console

T = TypeVar("T")

RUN_VARIABLE = "ZSQ_RUN"
"""Environment variable with the run's name, which every JSON line carries."""
LOGGED = frozenset({"synth", "qat", "eval", "sensitivity", "run", "check"})
"""What logs to standard output. Other commands answer there, and whoever reads the answer is not to read errors."""
EVENT_INTERVAL_S = 5.0
"""Shortest time between two progress events of one task where output is not a terminal, in seconds."""


def open_standard_streams() -> None:
    """Put the null device where a process was started without a standard stream.

    Else the next file that is opened would take its number, and whatever a library prints would land in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


class Reporter:
    """The one place a stage reports through.

    Args:
        stage: name that opens every line.
        terminal: draw for a person (True), write JSON lines (False), or decide by standard output (None).
    """

    def __init__(self, stage: str, terminal: bool | None = None) -> None:
        self.stage = stage
        self._silent = False
        self._weights: deque[float] = deque()
        self._all, self._done, self._began = 0.0, 0.0, 0.0
        self._terminal = sys.stdout.isatty() if terminal is None else terminal

    @cached_property
    def _console(self) -> "Console":
        from rich.console import Console

        return Console(highlight=False)

    def message(self, text: str, **fields: Any) -> None:
        """One line of what happened; `fields` are added to the JSON event."""
        if self._terminal:
            from rich.text import Text

            line = Text.assemble((self.stage, "bold"), "  ", shown(text))
            self._say(lambda: self._console.print(line, soft_wrap=True))
        else:
            self._event("message", text=shown(text), **fields)

    def error(self, text: str, exit_code: int | None = None) -> None:
        """One line of what went wrong, to standard error; where standard output is a log of JSON lines, there too."""
        if not self._terminal and self.stage in LOGGED:
            self._event("error", text=shown(text), exit_code=exit_code)
        self._complain(text)

    def _complain(self, text: str) -> None:
        with suppress(OSError, ValueError):  # there may be nobody left to read it; the exit code says it too
            print(f"zsq {self.stage}: {shown(text)}", file=sys.stderr, flush=True)

    def output(self, text: str) -> None:
        """What a command was asked for, of any number of lines, to standard output.

        Raises:
            InputError: it cannot be written there.
        """
        self._say(lambda: print(printable(text, keep="\n").rstrip("\n"), flush=True))
        if self._silent:
            raise InputError("standard output cannot be written (closed, or its disk is full); give it another place")

    def plan(self, weights: Sequence[float], after: float = 0.0) -> None:
        """Say how much work the next tasks are, in any unit, so that the time left of the whole stage is known.

        Args:
            weights: of each task that `track` will show from now on, in order.
            after: of what the stage does after these.
        """
        self._weights = deque(weights)
        self._all, self._done, self._began = sum(weights) + after, 0.0, time.monotonic()

    def track(self, items: Sequence[T], task: str, unit: str = "step") -> Iterator[T]:
        """Iterate `items` while showing rate and time left; `unit` names what is counted in the rate."""
        if self._terminal:
            yield from self._bar(items, task, unit)
        else:
            yield from self._lines(items, task, unit)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A short closing table; the first column is left-aligned, the others right-aligned."""
        rows = [[shown(cell) for cell in row] for row in rows]
        if not self._terminal:
            self._event("table", title=title, columns=list(columns), rows=rows)
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(shown(title)), title_justify="left")
        for number, column in enumerate(columns):
            table.add_column(Text(shown(column)), justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*map(Text, row))
        self._say(lambda: self._console.print(table))

    def _say(self, write: Callable[[], None]) -> None:
        """Write to standard output; where that fails, say so once and go on with the work without it."""
        if self._silent:
            return
        try:
            write()
        except (OSError, ValueError) as error:  # closed, a full disk, a reader that is gone
            self._silent = True
            with suppress(OSError, ValueError):  # what Python still holds would fail again when the process ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._complain(f"standard output cannot be written ({error}); going on without it")

    def _bar(self, items: Sequence[T], task: str, unit: str) -> Iterator[T]:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn(f"{self.stage}  {{task.description}}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, disable=self._silent) as progress:
            bar = progress.add_task(task, total=len(items), rate="")
            start = time.monotonic()
            for done, item in enumerate(items, start=1):
                yield item
                rate = done / max(time.monotonic() - start, 1e-9)
                progress.update(bar, completed=done, rate=f"{rate:.2f} {unit}/s")

    def _lines(self, items: Sequence[T], task: str, unit: str) -> Iterator[T]:
        start = last = time.monotonic()
        weight = self._weights.popleft() if self._weights else None
        for done, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - last >= EVENT_INTERVAL_S or done == len(items):
                rate = done / max(now - start, 1e-9)
                left = (len(items) - done) / rate
                self._event(
                    "progress",
                    task=task,
                    done=done,
                    total=len(items),
                    unit=unit,
                    per_second=round(rate, 3),
                    seconds_left=round(left, 1),
                    stage_seconds_left=self._stage_left(weight, done / len(items)),
                )
                last = now
        self._done += weight or 0.0

    def _stage_left(self, weight: float | None, share: float) -> float | None:
        """Seconds until the end of the stage, when `share` of the task of that weight is done; None: not known."""
        done = self._done + share * (weight or 0.0)
        if weight is None or done <= 0:
            return None
        return round((time.monotonic() - self._began) * (self._all - done) / done, 1)

    def _event(self, event: str, **fields: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, **self._origin(), "event": event, **fields})
        self._say(lambda: print(redacted(line), flush=True))

    def _origin(self) -> dict[str, Any]:
        """Who says it: the stage, and where they are known its run and its rank."""
        run, rank = os.environ.get(RUN_VARIABLE), os.environ.get("RANK", "")
        known = {"run": run} if run else {}
        return {"stage": self.stage} | known | ({"rank": int(rank)} if rank.isdecimal() else {})
