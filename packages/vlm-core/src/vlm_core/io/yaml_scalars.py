"""Scalars of YAML 1.2's core schema, limited to 64-bit numbers and valid text."""

from __future__ import annotations

import re
from typing import Any

import yaml

from vlm_core.markup.printable import printable

_SCALARS = [
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), lambda text: None),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), lambda text: text.lower() == "true"),
    ("int", re.compile(r"^[-+]?[0-9]+$"), int),
    ("float", re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"), float),
    ("nan", re.compile(r"^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"), lambda t: float(t.replace(".", ""))),
]
NO_TEXT = re.compile("[\x00\ud800-\udfff]")
"""Characters that are invalid in file names and in UTF-8 text."""


def value_of(event: yaml.ScalarEvent) -> Any:
    """The value of a scalar; raises `ValueError` for numbers above the limits and for invalid characters."""
    text = event.value
    if bad := NO_TEXT.search(text):
        raise ValueError(f"a text can't hold the character U+{ord(bad[0]):04X}")
    if event.style in ("'", '"', "|", ">") or event.tag is not None:
        return text
    for kind, pattern, convert in _SCALARS:
        if pattern.match(text):
            return _number(kind, text, convert)
    return text


def _number(kind: str, text: str, convert: Any) -> Any:
    if kind == "int" and (len(text) > 1000 or not -(2**63) <= int(text) < 2**63):
        raise ValueError(f"a whole number of {len(text)} digits, beyond 64 bits; quote it if it is a text")
    value = convert(text)
    if kind == "float" and abs(value) == float("inf"):
        raise ValueError(f"{printable(text, 40)} is beyond the largest number, 1.8e308")
    return value


def quoted(text: str) -> str:
    """`text` as a double-quoted scalar on one line, which reads back as this text whatever its characters are."""
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**9).rstrip("\n")
