"""How a stage tells people and programs what it does: bars on a terminal, JSON lines elsewhere."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

T = TypeVar("T")

EVENT_INTERVAL_S = 5.0
"""Shortest time between two progress events of one task where output is not a terminal, in seconds."""


class Reporter:
    """The one place a stage reports through.

    Args:
        stage: name that opens every line.
        terminal: draw for a person (True), write JSON lines (False), or decide by standard output (None).
    """

    def __init__(self, stage: str, terminal: bool | None = None) -> None:
        self.stage = stage
        self._console = Console(highlight=False)
        self._terminal = sys.stdout.isatty() if terminal is None else terminal

    def message(self, text: str, **fields: Any) -> None:
        """One line of what happened; `fields` are added to the JSON event."""
        if self._terminal:
            self._console.print(f"[bold]{self.stage}[/bold]  {text}", soft_wrap=True)
        else:
            self._event("message", text=text, **fields)

    def error(self, text: str) -> None:
        """One line of what went wrong, to standard error."""
        print(f"zsq {self.stage}: {text}", file=sys.stderr, flush=True)

    def track(self, items: Sequence[T], task: str, unit: str = "step") -> Iterator[T]:
        """Iterate `items` while showing rate and time left; `unit` names what is counted in the rate."""
        if self._terminal:
            yield from self._bar(items, task, unit)
        else:
            yield from self._lines(items, task, unit)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A short closing table; the first column is left-aligned, the others right-aligned."""
        rows = [list(row) for row in rows]
        if not self._terminal:
            self._event("table", title=title, columns=list(columns), rows=rows)
            return
        table = Table(title=title, title_justify="left")
        for number, column in enumerate(columns):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)

    def _bar(self, items: Sequence[T], task: str, unit: str) -> Iterator[T]:
        columns = (
            TextColumn(f"[bold]{self.stage}[/bold]  {{task.description}}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            shown = progress.add_task(task, total=len(items), rate="")
            start = time.monotonic()
            for done, item in enumerate(items, start=1):
                yield item
                rate = done / max(time.monotonic() - start, 1e-9)
                progress.update(shown, completed=done, rate=f"{rate:.2f} {unit}/s")

    def _lines(self, items: Sequence[T], task: str, unit: str) -> Iterator[T]:
        start = last = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - last >= EVENT_INTERVAL_S or done == len(items):
                rate = done / max(now - start, 1e-9)
                left = (len(items) - done) / rate
                self._event("progress", task=task, done=done, total=len(items), unit=unit,
                            per_second=round(rate, 3), seconds_left=round(left, 1))  # fmt: skip
                last = now

    def _event(self, event: str, **fields: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        print(json.dumps({"time": now, "stage": self.stage, "event": event, **fields}), flush=True)
