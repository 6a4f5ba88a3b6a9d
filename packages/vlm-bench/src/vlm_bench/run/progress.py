"""Progress of asking or grading questions: a bar in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vlm_core.markup.printable import printable
from vlm_core.units import duration

_SECONDS_A_LINE = 10.0


class QuestionProgress:
    """Finished questions of all questions, and the estimated time left."""

    def __init__(
        self, name: str, total: int, done: int, *, quiet: bool = False, every: float = _SECONDS_A_LINE
    ) -> None:
        self.every = every
        self.name, self.total, self.first, self.done, self.quiet = printable(name), total, done, done, quiet
        self.started = self.printed = time.monotonic()
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("left"),
        )
        in_terminal = console.is_terminal and not quiet
        self.bar = Progress(*columns, TimeRemainingColumn(), console=console) if in_terminal else None
        self.task = self.bar.add_task(self.name, total=total, completed=done) if self.bar else None

    def __enter__(self) -> QuestionProgress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def step(self) -> None:
        """Count one more answer."""
        self.done += 1
        now = time.monotonic()
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=self.done)
        elif not self.quiet and (now - self.printed > self.every or self.done == self.total):
            self.printed = now
            left = (now - self.started) / (self.done - self.first) * (self.total - self.done)
            print(f"{self.name} {self.done}/{self.total}  left {duration(left)}", file=sys.stderr, flush=True)  # noqa: T201, a CLI's progress
