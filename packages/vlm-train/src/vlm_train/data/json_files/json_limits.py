"""Limits of one row of JSON, checked before parsing: as Python objects, `[[],[],…` takes a hundred times its bytes."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from vlm_core.errors import BadSample

MAX_VALUES, MAX_DEPTH = 250_000, 64
"""Items of all lists and mappings of a row, and their nesting depth."""
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Extent(NamedTuple):
    """End of a value in the text (None if not found), number of values in it, and nesting depth."""

    end: int | None
    values: int
    depth: int

    @property
    def fault(self) -> BadSample | None:
        """The limit that the value exceeds, without file and row."""
        if self.depth > MAX_DEPTH:
            return BadSample("json", f"nested deeper than {MAX_DEPTH} levels")
        if self.values > MAX_VALUES:
            return BadSample("too-large", f"more than {MAX_VALUES} values in one row")
        return None


def extent(text: str, at: int = 0, to_the_end: bool = False) -> Extent:
    """The extent of the list or mapping that begins at `at`; counting stops at the limits unless `to_the_end`."""
    values = level = depth = 0
    for token in _TOKEN.finditer(text, at):
        mark = token[0][0]
        if mark in "[{":
            values, level = values + 1, level + 1
            depth = max(depth, level)
        elif mark == ",":
            values += 1
        elif mark in "]}":
            level -= 1
        if level <= 0:
            return Extent(token.end(), values, depth)
        if not to_the_end and (values > MAX_VALUES or depth > MAX_DEPTH):
            break
    return Extent(None, values, depth)


def check_limits(text: str, where: str, at: int = 0, end: int | None = None) -> None:
    """Raise `BadSample` for JSON with too many values or levels; usually counting characters is enough to pass."""
    opened = text.count("[", at, end) + text.count("{", at, end)
    if opened <= MAX_DEPTH and opened + text.count(",", at, end) <= MAX_VALUES:
        return
    if fault := extent(text if end is None else text[:end], at).fault:
        raise BadSample(fault.reason, f"{where}: {fault}")


def check_surrogates(value: Any, text: str, where: str, at: int = 0, end: int | None = None) -> None:
    """Raise `BadSample` for a value, parsed from `text`, with an unpaired surrogate: UTF-8 can't encode it."""
    if not _SURROGATE.search(text, at, len(text) if end is None else end):
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        near = error.object[max(0, error.start - 20) : error.start + 20]
        raise BadSample(
            "schema", f"{where}: unpaired surrogate in {near!r:.60}: not valid Unicode text"
        ) from None
