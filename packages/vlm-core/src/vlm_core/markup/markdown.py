"""Markdown with foreign text escaped: it makes no HTML, link or image, and ends no cell, fence or line."""

from __future__ import annotations

import re
from collections.abc import Iterable

from vlm_core.markup.printable import printable

_ACTIVE = re.compile(r"[\\`*<\[\]|~$]|&(?=#?\w+;)|(?<!\w)_|_(?!\w)|!(?=\[)")
_BREAK = re.compile(r"\s*[^\S ]\s*")
_LINK = re.compile(r"(?i):(?=//)|(?<=\bwww)\.|(?<=mailto):|(?<=xmpp):")
_START = re.compile(r"^(>|#{1,6}(?=\s|$)|[-+=](?=[-+=\s]|$)|\d{1,9}[.)](?=\s|$))")


def text(content: object) -> str:
    """Escape any text as one line that renders literally, also at the start of a list item or a paragraph."""
    line = printable(_BREAK.sub(" ", str(content)).strip())
    line = _LINK.sub(r"\\\g<0>", _ACTIVE.sub(r"\\\g<0>", line))
    return _START.sub(lambda match: f"{match[0][:-1]}\\{match[0][-1]}", line)


def row(cells: Iterable[object]) -> str:
    """A line of a table; its cells are any texts."""
    return f"| {' | '.join(map(text, cells))} |"


def table(rows: Iterable[Iterable[object]], *, right: int | None = None) -> list[str]:
    """The lines of a table, the head first; columns from the `right`-th on are aligned right."""
    head, *others = [list(map(text, cells)) for cells in rows]
    marks = ("---:" if right is not None and i >= right else "---" for i in range(len(head)))
    lines = ("|" + "".join(f" {cell} |" if cell else " |" for cell in cells) for cells in (head, *others))
    return [next(lines), f"|{'|'.join(marks)}|", *lines]


def fence(content: str, language: str = "") -> list[str]:
    """The lines of a block of code; its fence is longer than any in the code."""
    lines = [printable(line) for line in content.split("\n")]
    longest = max((len(run) for line in lines for run in re.findall(r"`+", line)), default=0)
    mark = "`" * max(3, longest + 1)
    return [f"{mark}{language}", *lines, mark]
