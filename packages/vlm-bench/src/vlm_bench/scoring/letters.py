"""The option letter of an answer to a multiple-choice question, as most evaluations mean it."""

from __future__ import annotations

import re

_LENIENT = re.compile(r"\(?([A-Ea-e])(?:\)?[.:]?\s*$|\)|[.:](?:\s|$))")
_ANSWER_IS = re.compile(r"[Aa]nswer is \(?([A-E])\b")


def parse_normalized(text: str) -> str | None:
    """Also "b", "(B)", "B." and "B: red", with white space around, and "The answer is B" at the very end."""
    match = _LENIENT.match(text.strip())
    if match:
        return match[1].upper()
    named = _ANSWER_IS.findall(text)
    return named[0].upper() if len(set(named)) == 1 else None
