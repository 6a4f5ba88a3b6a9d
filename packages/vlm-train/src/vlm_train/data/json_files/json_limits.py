"""Limits of one row of JSON, checked before it is parsed: `[[],[],…` takes a hundred times its bytes as objects."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from vlm_core.errors import BadSample

MAX_VALUES, MAX_DEPTH = 250_000, 64
"""Items of all lists and mappings of a row, and levels of them."""
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Extent(NamedTuple):
    """Where a value ends, None if that is not in sight, how many values it holds, and their levels."""

    end: int | None
    values: int
    depth: int

    @property
    def fault(self) -> BadSample | None:
        """What is too much in it, without a place."""
        if self.depth > MAX_DEPTH:
            return BadSample("json", f"nested deeper than {MAX_DEPTH} levels")
        if self.values > MAX_VALUES:
            return BadSample("too-large", f"more than {MAX_VALUES} values in one row")
        return None


def extent(text: str, at: int = 0, to_the_end: bool = False) -> Extent:
    """The extent of the list or mapping that begins at a place; it is told up to the limits, or `to_the_end`."""
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
    """Raise `BadSample` for JSON with too many values or levels; at most times, counting characters shows enough."""
    opened = text.count("[", at, end) + text.count("{", at, end)
    if opened <= MAX_DEPTH and opened + text.count(",", at, end) <= MAX_VALUES:
        return
    if fault := extent(text if end is None else text[:end], at).fault:
        raise BadSample(fault.reason, f"{where}: {fault}")


def check_surrogates(value: Any, text: str, where: str, at: int = 0, end: int | None = None) -> None:
    """Raise `BadSample` for a value, parsed from `text`, that has half of a surrogate pair: it can't be written."""
    if not _SURROGATE.search(text, at, len(text) if end is None else end):
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        near = error.object[max(0, error.start - 20) : error.start + 20]
        raise BadSample("schema", f"{where}: half of a surrogate pair in {near!r:.60} is no text") from None
