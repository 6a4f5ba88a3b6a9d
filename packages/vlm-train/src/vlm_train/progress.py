"""What a person sees while a stage runs: a bar in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_SECONDS_A_LINE = 10.0


def duration(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`."""
    minutes, s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"


class StageProgress:
    """Loss, tokens a second and time left of one stage; rates count this session's steps only."""

    def __init__(self, name: str, steps: int, done: int, quiet: bool = False) -> None:
        self.name, self.steps, self.first, self.quiet = name, steps, done, quiet
        self.started = self.printed = time.monotonic()
        self.tokens, self.task = 0, TaskID(0)
        self.console = Console(stderr=True)
        self.bar = None
        if self.console.is_terminal and not quiet:
            text = "{task.fields[loss]} {task.fields[rate]}"
            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
                TextColumn(text), TextColumn("left"), TimeRemainingColumn(), console=self.console,
            )  # fmt: skip

    def __enter__(self) -> StageProgress:
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=self.steps, completed=self.first, loss="", rate="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def step(self, done: int, loss: float, tokens: int) -> float:
        """Show that `done` steps are finished; returns tokens a second so far."""
        self.tokens += tokens
        now = time.monotonic()
        rate = self.tokens / max(now - self.started, 1e-9)
        if self.bar:
            self.bar.update(self.task, completed=done, loss=f"loss {loss:.3f}", rate=f"{rate:,.0f} tokens/s")
        elif not self.quiet and (now - self.printed > _SECONDS_A_LINE or done == self.steps):
            self.printed = now
            left = (now - self.started) / (done - self.first) * (self.steps - done)
            line = f"{self.name} {done}/{self.steps}  loss {loss:.3f}  {rate:,.0f} tokens/s"
            print(f"{line}  left {duration(left)}", file=sys.stderr, flush=True)  # noqa: T201, a CLI's progress
        return rate
