"""Progress of counted work on stderr: a bar in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vlm_core.markup.printable import printable
from vlm_core.units import duration

SECONDS_PER_LINE = 10.0
_GAP, _NAME, _BAR = 2, 16, (8, 40)
"""Columns between fields, for a name in a narrow terminal, and of the bar (least, most)."""
_LEADING = 2
"""This many of the caller's fields come before the bar where a terminal is too narrow for all."""


def fitting(fields: Mapping[str, str], width: int) -> list[str]:
    """Names of the `fields` that fit into one line of `width` columns, in the order of display; none is cut.

    A field that does not fit is left out, and shorter ones after it may still fit. The bar has a least width.
    """
    extra = [name for name in fields if name not in ("name", "bar", "count", "left")]
    chosen, used = [], -_GAP
    for name in ("name", "left", *extra[:_LEADING], "bar", "count", *extra[_LEADING:]):
        if name == "bar" or name in fields:
            needed = _GAP + (_BAR[0] if name == "bar" else len(fields[name]))
            if used + needed <= width:
                chosen.append(name)
                used += needed
    displayed = ("name", "bar", "count", *extra[:_LEADING], "left", *extra[_LEADING:])
    return [name for name in displayed if name in chosen]


class Progress:
    """`done` of `total` items, further fields, and the estimated time left.

    The estimate follows from the items after the first `warmup`, which may include compilation. `quiet` shows nothing:
    for all processes of a group but the first.
    """

    def __init__(
        self,
        name: str,
        total: int,
        done: int = 0,
        *,
        unit: str = "",
        warmup: int = 0,
        every: float = SECONDS_PER_LINE,
        quiet: bool = False,
    ) -> None:
        self.name, self.total, self.done = printable(name), total, done
        self.unit, self.every, self.quiet = unit, every, quiet
        self.printed = time.monotonic()
        self._warm_at = done + warmup
        self._start = None if warmup else (self.printed, done)
        self.fields: dict[str, str] = {}
        self.console = Console(stderr=True)
        self.live = None
        if self.console.is_terminal and not quiet:
            self.live = Live(console=self.console, get_renderable=self._bar, vertical_overflow="visible")

    def __enter__(self) -> Progress:
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def advance(self, count: int = 1) -> None:
        """`count` more items are done."""
        self.update(self.done + count)

    def update(self, done: int, fields: Mapping[str, str] | None = None) -> None:
        """`done` items are done; `fields` are further texts by name, the most important first."""
        now = time.monotonic()
        self.done = done
        if self._start is None and done >= self._warm_at:
            self._start = now, done
        texts = list((fields or {}).items())
        self.fields = dict([*texts[:_LEADING], ("left", self._left(now)), *texts[_LEADING:]])
        if not self.live and not self.quiet and (now - self.printed > self.every or done == self.total):
            self.printed = now
            count = f"{self.name} {done}/{self.total}" + (f" {self.unit}" if self.unit else "")
            print("  ".join([count, *self.fields.values()]), file=sys.stderr, flush=True)

    def _left(self, now: float) -> str:
        if self.done == self.total:
            return "left 0:00"
        if self._start is None or self.done == self._start[1]:
            return "left -:--"
        since, first = self._start
        return f"left {duration((now - since) / (self.done - first) * (self.total - self.done))}"

    def _bar(self) -> Table:
        """The bar and as many fields as fit into the terminal's present width."""
        width = self.console.width
        room = len(self.name) if width >= 120 else min(_NAME, width // 4)
        name = self.name if len(self.name) <= room else f"{self.name[: room - 1]}…"
        fields = {"left": "left -:--", **self.fields, "name": name, "count": f"{self.done}/{self.total}"}
        chosen = fitting(fields, width)
        others = sum(len(fields[n]) for n in chosen if n != "bar") + _GAP * (len(chosen) - 1)
        bar = ProgressBar(self.total, self.done, width=max(_BAR[0], min(_BAR[1], width - others)))
        line = Table.grid(*("" for _ in chosen), padding=(0, _GAP, 0, 0), pad_edge=False)
        line.add_row(*(bar if n == "bar" else Text(fields[n], no_wrap=True) for n in chosen))
        return line
