"""GQA: an answer is right if it equals the label after LLaVA's conversion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STRUCTURAL = ("choose", "compare", "logical", "query", "verify")
SEMANTIC = ("attr", "cat", "global", "obj", "rel")
# operations that do not count as steps of reasoning, anywhere in "operation: argument"
_NO_STEPS = ("exist", "query: name", "choose name")


def parse(text: str) -> str:
    """Without periods at its end, in lower case. Nothing else: "a dog", "dog " and "two" for "2" stay wrong."""
    return text.rstrip(".").lower()


def parse_normalized(text: str) -> str:
    """Also without white space and punctuation at the ends and without a leading article."""
    words = text.strip().strip(".,;:!\"'").strip().lower().split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)


def steps(program: list[Mapping[str, Any]]) -> int:
    """Steps of reasoning in a question's `semantic` program, as the official script counts them."""
    texts = (f"{step['operation']}: {step['argument']}" for step in program)
    return sum(not any(mark in text for mark in _NO_STEPS) for text in texts)


def is_open(structural: str) -> bool:
    """Open questions are those of structural type `query`; every other type counts as binary."""
    return structural == "query"
