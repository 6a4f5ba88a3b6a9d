"""Errors that users can fix. Commands print their message without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vlm_core.markup.printable import printable

LONGEST, MOST = 200, 50
"""Limits of one message: characters of a name from a file, and number of faults."""
MAX_MESSAGE, MAX_NAME = 2000, 200
"""Limits in characters of a `BadSample`'s message and of its row id: both quote the data."""


class UserError(ValueError):
    """An error that the user can fix; commands print it without a traceback and exit with code 2.

    Each argument is one line of the message. Control characters and line feeds are escaped: a name, an id or a path
    from a file can neither control the terminal nor start a new line.
    """

    def __init__(self, *lines: object) -> None:
        super().__init__(*map(printable, lines))

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines of the message, for another error that repeats them: `UserError(*error.lines)`."""
        return self.args

    def __str__(self) -> str:
        return "\n".join(self.args)


class BadSample(UserError):
    """One row or image that cannot be used; training may skip it. Rows are counted by the short `reason`.

    `row` is the row's id, empty if it is not known. Message and id quote the data, so they are made printable and cut
    to `MAX_MESSAGE` and `MAX_NAME` characters.
    """

    def __init__(self, reason: str, message: str, row: str = "") -> None:
        super().__init__(printable(message, MAX_MESSAGE))
        self.reason, self.row = reason, printable(row, MAX_NAME)

    def of_row(self, row: str) -> BadSample:
        """The same error with a row id, unless it already has one."""
        return BadSample(self.reason, str(self), self.row or row)

    def __reduce__(self) -> tuple[Any, ...]:  # the default pickles only the message
        return type(self), (self.reason, str(self), self.row)


def one_line(error: BaseException, limit: int = 300) -> str:
    """The first line of a library's error message, at most `limit` characters; the error's type if it has none."""
    lines = str(error).strip().splitlines()
    return printable(lines[0], limit) if lines else type(error).__name__


def shown(value: object, limit: int = 60) -> str:
    """The `repr` of a value from a file or a command line, at most `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


@dataclass(frozen=True)
class Problem:
    """One fault of a spec: `where` is file:line, `path` the dotted key, `text` what is wrong."""

    where: str
    path: str
    text: str

    def __str__(self) -> str:
        path = self.path if len(self.path) <= LONGEST else f"{self.path[:LONGEST]}…"
        return f"{self.where}: {path + ': ' if path else ''}{self.text}"


class SpecError(UserError):
    """All faults of a spec, each with file, line and dotted key; the message lists the first `MOST`."""

    def __init__(self, problems: list[Problem]) -> None:
        more = [f"and {len(problems) - MOST} more faults"] if len(problems) > MOST else []
        super().__init__(*problems[:MOST], *more)
        self.problems = problems


def choices(seen: object, allowed: Iterable[str]) -> str:
    """`; possible: a, b; did you mean 'a'?`, the end of a message about an unknown name."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(seen)[:LONGEST], names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"; possible: {', '.join(names) or 'none'}{hint}"
