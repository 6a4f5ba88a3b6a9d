"""Text of foreign origin made safe for terminals, logs and messages: control characters become escapes."""

from __future__ import annotations

import json
from typing import Any

_ALLOWED = frozenset("\u200c\u200d\u00a0\u202f\u3000")
"""Joiners and spaces of written languages, which `str.isprintable` rejects."""


def printable(text: object, limit: int | None = None, *, lines: bool = False) -> str:
    """`str(text)` in which each control, format or surrogate character is an escape such as `\\x1b`.

    Line feeds and tabs are kept if `lines`, else escaped, too. Text longer than `limit` characters ends in `…`.
    """
    content = str(text)
    if limit is not None and len(content) > limit:
        content = content[: limit - 1] + "…"
    if content.isprintable():
        return content
    kept = _ALLOWED | {"\n", "\t"} if lines else _ALLOWED
    return "".join(c if c.isprintable() or c in kept else _escape(c) for c in content)


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON with printable text of any language unescaped and all else as JSON escapes."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    kept = _ALLOWED | {"\n"}
    if all(line.isprintable() for line in text.split("\n")):
        return text
    return "".join(c if c.isprintable() or c in kept else json.dumps(c)[1:-1] for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
