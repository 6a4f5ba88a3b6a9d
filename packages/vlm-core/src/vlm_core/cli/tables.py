"""Tables without borders on the terminal."""

from __future__ import annotations

import sys
from typing import Any

from vlm_core.cli.output import inert

WIDTH = 118


def table(title: str, *columns: str, right: int = 1) -> Any:
    """A table without borders below an empty line; columns from the `right`-th on are right-aligned."""
    from rich.table import Table
    from rich.text import Text

    above = Text("\n", style="table.title").append_text(inert(title))
    plain = Table(title=above, title_justify="left", box=None, header_style="dim")
    for i, column in enumerate(columns):
        # what a narrow terminal has no room for goes to the next line instead of being cut off
        plain.add_column(inert(column), justify="right" if i >= right else "left", overflow="fold")
    return plain


def add(lines: Any, *cells: str) -> None:
    """Append a row to a table."""
    lines.add_row(*map(inert, cells))


def show(lines: Any) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    natural = console.measure(lines, options=console.options.update(max_width=1000)).maximum
    if natural > console.width:  # one space between columns breaks fewer words than two
        lines.padding = (0, 1, 0, 0)
    console.print(lines)
