"""What a user did that can't work: one short message, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vlm_core.printable import printable


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

    `row` is the row's id, empty where the one who raises it doesn't know the row.
    """

    def __init__(self, reason: str, message: str, row: str = "") -> None:
        super().__init__(message)
        self.reason, self.row = reason, row

    def of_row(self, row: str) -> BadSample:
        """The same fault with the row's id, unless it has one."""
        return BadSample(self.reason, str(self), self.row or row)

    def __reduce__(self) -> tuple[Any, ...]:  # several arguments: the default would not survive pickling
        return type(self), (self.reason, str(self), self.row)


@dataclass(frozen=True)
class Problem:
    """One fault of a spec: where it stands and what is wrong."""

    where: str
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.path + ': ' if self.path else ''}{self.text}"


class SpecError(UserError):
    """Every fault found in a spec, each with file, line and dotted path."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(*problems)
        self.problems = problems


def choices(seen: object, allowed: Iterable[str]) -> str:
    """`; possible: a, b; did you mean 'a'?`, the tail of every message about a wrong name."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(seen), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"; possible: {', '.join(names) or 'none'}{hint}"
