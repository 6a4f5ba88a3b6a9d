"""ScienceQA: multiple choice; LLaVA's rule reads the answer's letter."""

from __future__ import annotations

import re

LETTERS = ("A", "B", "C", "D", "E")
# the last dot is not escaped in the official script either: any character must follow the letter
SENTENCE = re.compile(r"The answer is ([A-Z]).")


def parse(text: str) -> str | None:
    """The chosen letter, or None if the rule finds none (which counts as wrong).

    The bare letter; else a letter, a period and a space at the start; else exactly one "The answer is X."
    Nothing is stripped or folded: "b", "(B)" and "B." are not read.
    """
    if text in LETTERS:
        return text
    if text[:1] in LETTERS and text[1:3] == ". ":
        return text[0]
    letters = SENTENCE.findall(text)
    return letters[0] if len(letters) == 1 else None
