"""Progress of a stage: a bar in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vlm_core.markup.printable import printable
from vlm_core.units import duration, size

_SECONDS_A_LINE = 10.0
_WARM_UP = 3
_GAP, _NAME, _BAR = 2, 16, (8, 40)
_BY_IMPORTANCE = ("stage", "left", "loss", "rate", "bar", "count", "lr", "tokens", "wait", "memory", "mfu")
_IN_ORDER = ("stage", "bar", "count", "loss", "rate", "left", "lr", "tokens", "wait", "memory", "mfu")


def speed(told: Mapping[str, Any]) -> dict[str, str]:
    """Rates, share of time spent waiting for data, memory and share of the device's peak, as far as known."""
    samples = told["samples_per_second"]
    fields = {
        "rate": f"{samples:,.1f} samples/s" if samples >= 1 else f"{samples:.2f} samples/s",
        "tokens": f"{told['tokens_per_second']:,.0f} tokens/s",
        "wait": f"data wait {told['data_wait']:.0%}",
        "memory": f"peak {size(told['peak_memory'])}",
    }
    return fields | ({"mfu": f"MFU {told['mfu']:.0%}"} if "mfu" in told else {})


def fitting(fields: Mapping[str, str], width: int) -> list[str]:
    """Names of the fields that a line of `width` columns has room for, the important ones first; none is cut.

    A field that doesn't fit makes room for those after it, which may be shorter. The bar needs a least width.
    """
    chosen, used = [], -_GAP
    for name in _BY_IMPORTANCE:
        if name == "bar" or name in fields:
            needs = _GAP + (_BAR[0] if name == "bar" else len(fields[name]))
            if used + needs <= width:
                chosen.append(name)
                used += needs
    return [name for name in _IN_ORDER if name in chosen]


class StageProgress:
    """Loss, rate, speed and time left of one stage.

    Time left follows from the steps after the first `_WARM_UP`, which compile: the second one may meet kernels that the
    first did not need.
    """

    def __init__(self, name: str, steps: int, done: int, quiet: bool = False) -> None:
        self.name, self.steps, self.done, self.quiet = printable(name), steps, done, quiet
        self.printed = time.monotonic()
        self.begun = done
        self.warm: tuple[float, int] | None = None
        self.fields: dict[str, str] = {}
        self.console = Console(stderr=True)
        self.live = None
        if self.console.is_terminal and not quiet:
            self.live = Live(console=self.console, get_renderable=self._line, vertical_overflow="visible")

    def __enter__(self) -> StageProgress:
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def step(self, done: int, loss: float, lr: float, told: Mapping[str, Any]) -> None:
        """Show that `done` steps are finished; `told` is what `ThroughputMeter` says."""
        now = time.monotonic()
        self.done = done
        if self.warm is None and done - self.begun >= _WARM_UP:
            self.warm = now, done
        self.fields = {
            "loss": f"loss {loss:.3f}",
            "lr": f"lr {lr:.2g}",
            **speed(told),
            "left": self._left(now),
        }
        if not self.live and not self.quiet and (now - self.printed > _SECONDS_A_LINE or done == self.steps):
            self.printed = now
            shown = [self.fields[name] for name in _IN_ORDER if name in self.fields]
            line = "  ".join([f"{self.name} {done}/{self.steps}", *shown])
            print(line, file=sys.stderr, flush=True)  # noqa: T201, a CLI's progress

    def _left(self, now: float) -> str:
        if self.done == self.steps:
            return "left 0:00"
        if self.warm is None or self.done == self.warm[1]:
            return "left -:--"
        since, first = self.warm
        return f"left {duration((now - since) / (self.done - first) * (self.steps - self.done))}"

    def _line(self) -> Table:
        """The bar and its fields, as many as the terminal has room for now."""
        width = self.console.width
        room = len(self.name) if width >= 120 else min(_NAME, width // 4)
        name = self.name if len(self.name) <= room else f"{self.name[: room - 1]}…"
        fields = {"left": "left -:--", **self.fields, "stage": name, "count": f"{self.done}/{self.steps}"}
        chosen = fitting(fields, width)
        others = sum(len(fields[n]) for n in chosen if n != "bar") + _GAP * (len(chosen) - 1)
        bar = ProgressBar(self.steps, self.done, width=max(_BAR[0], min(_BAR[1], width - others)))
        line = Table.grid(*(["" for _ in chosen]), padding=(0, _GAP, 0, 0), pad_edge=False)
        line.add_row(*(bar if n == "bar" else Text(fields[n], no_wrap=True) for n in chosen))
        return line


class Counting:
    """Rows done of rows to do, as a line on stderr every few seconds; callable after each piece."""

    def __init__(self, name: str, what: str = "rows", quiet: bool = False) -> None:
        self.name, self.what, self.quiet, self.started = printable(name), what, quiet, time.monotonic()
        self.printed = self.started

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.printed > _SECONDS_A_LINE and not self.quiet:
            self.printed = now
            left = duration((now - self.started) / done * (total - done))
            print(f"{self.name} {done}/{total} {self.what}  left {left}", file=sys.stderr, flush=True)  # noqa: T201
