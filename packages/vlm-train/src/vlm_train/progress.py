"""What a person sees while a stage runs: a bar in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from vlm_core.cli.common import duration, size

_SECONDS_A_LINE = 10.0


def speed(told: Mapping[str, Any]) -> str:
    """Rates, share of time spent waiting for data, memory and share of the device's peak, as far as known."""
    parts = [
        f"{told['samples_per_second']:,.1f} samples/s",
        f"{told['tokens_per_second']:,.0f} tokens/s",
        f"data wait {told['data_wait']:.0%}",
        f"peak {size(told['peak_memory'])}",
    ]
    return "  ".join([*parts, *([f"MFU {told['mfu']:.0%}"] if "mfu" in told else [])])


class StageProgress:
    """Loss, rate, speed and time left of one stage."""

    def __init__(self, name: str, steps: int, done: int, quiet: bool = False) -> None:
        self.name, self.steps, self.first, self.quiet = name, steps, done, quiet
        self.started = self.printed = time.monotonic()
        self.task = TaskID(0)
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

    def step(self, done: int, loss: float, lr: float, told: Mapping[str, Any]) -> None:
        """Show that `done` steps are finished; `told` is what `Pace` says."""
        now = time.monotonic()
        loss_text = f"loss {loss:.3f}  lr {lr:.2g}"
        if self.bar:
            self.bar.update(self.task, completed=done, loss=loss_text, rate=speed(told))
        elif not self.quiet and (now - self.printed > _SECONDS_A_LINE or done == self.steps):
            self.printed = now
            left = (now - self.started) / (done - self.first) * (self.steps - done)
            line = f"{self.name} {done}/{self.steps}  {loss_text}  {speed(told)}"
            print(f"{line}  left {duration(left)}", file=sys.stderr, flush=True)  # noqa: T201, a CLI's progress


class Counting:
    """Rows done of rows to do, as a line on stderr every few seconds; callable after each piece."""

    def __init__(self, name: str, what: str = "rows", quiet: bool = False) -> None:
        self.name, self.what, self.quiet, self.started = name, what, quiet, time.monotonic()
        self.printed = self.started

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.printed > _SECONDS_A_LINE and not self.quiet:
            self.printed = now
            left = duration((now - self.started) / done * (total - done))
            print(f"{self.name} {done}/{total} {self.what}  left {left}", file=sys.stderr, flush=True)  # noqa: T201
