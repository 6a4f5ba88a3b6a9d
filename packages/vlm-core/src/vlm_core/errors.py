"""What a user did that can't work: one short message, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vlm_core.markup.printable import printable

LONGEST, MOST = 200, 50
"""Characters of a foreign name, and faults, that one message shows."""
MAX_MESSAGE, MAX_NAME = 2000, 200
"""Characters of a `BadSample`'s message and of its row's id: both hold what the data says."""


class UserError(ValueError):
    """A fault that the user can mend; the CLIs print it without a traceback and exit with 2.

    Each argument is a line of the message. Control characters and line feeds in it become escapes, so that a name, an
    id or a path from a file can neither steer a terminal nor begin a line.
    """

    def __init__(self, *lines: object) -> None:
        super().__init__(*map(printable, lines))

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines of the message, for an error that gives them on: `UserError(*error.lines)`."""
        return self.args

    def __str__(self) -> str:
        return "\n".join(self.args)


class BadSample(UserError):
    """One row or image that cannot be used, with a short `reason` to count it by; training may skip it.

    `row` is the row's id, empty where the one who raises it doesn't know the row. Both texts are made printable and
    are cut at `MAX_MESSAGE` and `MAX_NAME`: a row decides what stands in them.
    """

    def __init__(self, reason: str, message: str, row: str = "") -> None:
        super().__init__(printable(message, MAX_MESSAGE))
        self.reason, self.row = reason, printable(row, MAX_NAME)

    def of_row(self, row: str) -> BadSample:
        """The same fault with the row's id, unless it has one."""
        return BadSample(self.reason, str(self), self.row or row)

    def __reduce__(self) -> tuple[Any, ...]:  # several arguments: the default would not survive pickling
        return type(self), (self.reason, str(self), self.row)


def one_line(error: BaseException, limit: int = 300) -> str:
    """The first line of a library's message, cut to `limit` characters; the error's type if it has no message."""
    lines = str(error).strip().splitlines()
    return printable(lines[0], limit) if lines else type(error).__name__


def shown(value: object, limit: int = 60) -> str:
    """The `repr` of a value from a file or a command line, cut to at most `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


@dataclass(frozen=True)
class Problem:
    """One fault of a spec: where it stands and what is wrong."""

    where: str
    path: str
    text: str

    def __str__(self) -> str:
        path = self.path if len(self.path) <= LONGEST else f"{self.path[:LONGEST]}…"
        return f"{self.where}: {path + ': ' if path else ''}{self.text}"


class SpecError(UserError):
    """Every fault found in a spec, each with file, line and dotted path; the text has the first `MOST`."""

    def __init__(self, problems: list[Problem]) -> None:
        more = [f"and {len(problems) - MOST} more faults"] if len(problems) > MOST else []
        super().__init__(*problems[:MOST], *more)
        self.problems = problems


def choices(seen: object, allowed: Iterable[str]) -> str:
    """`; possible: a, b; did you mean 'a'?`, the tail of every message about a wrong name."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(seen)[:LONGEST], names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"; possible: {', '.join(names) or 'none'}{hint}"
