"""One JSON object and its fields; an error names the wrong field, its value and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

from vlm_core.errors import UserError, choices

_SHOWN = 200
"""Characters of a row's keys in a message."""


@dataclass(slots=True)
class Row:
    """One JSON object and its place in the file. Not frozen: creating it then takes a third of the time."""

    where: str
    data: dict[str, Any]

    def text(self, key: str) -> str:
        """The string at `key`; anything else is an error."""
        value = self.data.get(key)
        if not isinstance(value, str):
            self.wrong(key, "text")
        return value

    def named(self, key: str) -> str:
        """The text at `key`, which must not be empty, such as a file name."""
        if not (value := self.text(key)).strip():
            self.wrong(key, "text that is not empty")
        return value

    def id(self, key: str) -> str:
        """An identifier, which files write as an integer or as text, as text."""
        value = self.data.get(key)
        if type(value) is int:
            return str(value)
        if key not in self.data or value == "":
            self.wrong(key, "a number or text")
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            hint = "; ids are whole numbers" if isinstance(value, float) else ""
            raise UserError(f"{self.where}: {key!r} must be a number or text, got {value!r:.40}{hint}")
        return str(value)

    def flag(self, key: str) -> bool:
        """The boolean at `key`."""
        value = self.data.get(key)
        if not isinstance(value, bool):
            self.wrong(key, "true or false")
        return value

    def row(self, key: str) -> Row:
        """The JSON object at `key`."""
        value = self.data.get(key)
        if not isinstance(value, dict):
            self.wrong(key, "a JSON object")
        return Row(f"{self.where}: {key}", value)

    def items(self, key: str, kind: type = object, what: str = "a list") -> list[Any]:
        """The list at `key`, whose every item is of `kind`."""
        value = self.data.get(key)
        if not isinstance(value, list) or not (
            {*map(type, value)} <= {kind} or all(isinstance(item, kind) for item in value)
        ):
            self.wrong(key, what)
        return value

    def one_of(self, key: str, allowed: Iterable[str]) -> str:
        """The text at `key`, which must be one of `allowed`."""
        value, known = self.text(key), tuple(allowed)
        if value not in known:
            raise UserError(f"{self.where}: unknown {key} {value!r}{choices(value, known)}")
        return value

    def optional(self, key: str) -> bool:
        """Whether `key` exists; a misspelled `key` is an error, since it would be ignored otherwise."""
        if key in self.data:
            return True
        if near := nearly(key, tuple(self.data)):
            raise UserError(f"{self.where}: unknown key {near!r}; did you mean {key!r}?")
        return False

    def wrong(self, key: str, expected: str) -> NoReturn:
        """Raise the error for field `key`."""
        if key in self.data:
            raise UserError(f"{self.where}: {key!r} is {self.data[key]!r:.40}, expected {expected}")
        keys = ", ".join(map(repr, self.data)) or "none"
        raise UserError(
            f"{self.where}: {key!r} is missing, expected {expected}; its keys are {keys:.{_SHOWN}}"
        )


@lru_cache(maxsize=256)
def nearly(key: str, keys: tuple[str, ...]) -> str | None:
    """The one of `keys` that equals `key` except for case, punctuation or a typing error."""
    plain = {_plain(name): name for name in keys}
    if (same := plain.get(_plain(key))) is not None:
        return same
    close = difflib.get_close_matches(_plain(key), plain, n=1, cutoff=0.85)
    return plain[close[0]] if close else None


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def as_row(value: Any, where: str) -> Row:
    """`value` as a `Row`; only JSON objects are rows."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object, got {value!r:.40}")
    return Row(where, value)
