"""What a user did that can't work: one short message, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vlm_core.printable import printable

MAX_MESSAGE, MAX_NAME = 2000, 200
"""Characters of a `BadSample`'s message and of its row's id: both hold what the data says."""


class UserError(ValueError):
    """A fault that the user can mend; the CLIs print it without a traceback and exit with 2."""


class BadSample(UserError):
    """One row or image that cannot be used, with a short `reason` to count it by; training may skip it.

    `row` is the row's id, empty where the one who raises it doesn't know the row. Both texts are made printable and
    are cut at `MAX_MESSAGE` and `MAX_NAME`: a row decides what stands in them.
    """

    def __init__(self, reason: str, message: str, row: str = "") -> None:
        super().__init__(printable(message, MAX_MESSAGE, lines=True))
        self.reason, self.row = reason, printable(row, MAX_NAME)

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
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def choices(seen: object, allowed: Iterable[str]) -> str:
    """`; possible: a, b; did you mean 'a'?`, the tail of every message about a wrong name."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(seen), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"; possible: {', '.join(names) or 'none'}{hint}"
