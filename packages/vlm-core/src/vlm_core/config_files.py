"""Small JSON files that describe a part of a model: bounded, so that a hostile one costs neither time nor memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_core.errors import UserError
from vlm_core.files import json_object, read_text

MAX_BYTES = 16 * 2**20
MAX_VALUES = 500_000
MAX_COUNT = 1 << 16
"""Layers, labels and the like: libraries loop over them before they build anything."""
_COUNTS = re.compile(
    r"(^|_)(num|nb|n)_(\w+_)?(layers?|labels|blocks?|stages|experts|heads?|classes|groups)$|(^|_)(depths?|layers?|blocks?)$"
)


def read_config(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file; raises `UserError` for what is none, or is far larger than any such file."""
    return bounded_object(read_text(path, MAX_BYTES), path)


def bounded_object(text: str, where: str | Path, most: int = MAX_VALUES) -> dict[str, Any]:
    """As `json_object`, of text with at most about `most` values."""
    count = text.count(",") + text.count("[") + text.count("{")
    if count > most:
        raise UserError(f"{where}: about {count} values; at most {most} are read")
    return json_object(text, where)


def check_counts(config: Mapping[str, Any], where: object) -> None:
    """Raise `UserError` for a number of layers, labels or the like that no model has, at any depth."""
    waiting: list[tuple[str, Any]] = [("", config)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(str(key), inner) for key, inner in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(path, inner) for inner in value]
        elif isinstance(value, int | float) and value > MAX_COUNT and _COUNTS.search(path):
            raise UserError(f"{where}: {path} is {value:g}; at most {MAX_COUNT} is possible")
