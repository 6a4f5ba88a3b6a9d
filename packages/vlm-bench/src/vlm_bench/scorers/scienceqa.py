"""ScienceQA: multiple choice, the answer's letter read by LLaVA's rule."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

LETTERS = ("A", "B", "C", "D", "E")
# the last dot is not escaped in the official script either: any character must follow the letter
SENTENCE = re.compile(r"The answer is ([A-Z]).")


def parse(text: str) -> str | None:
    """The letter that was chosen, or None if the rule finds none (which counts as wrong).

    The bare letter; else a letter, a period and a space at the start; else exactly one "The answer is X."
    Nothing is stripped or folded: "b", "(B)" and "B." are not read.
    """
    if text in LETTERS:
        return text
    if text[:1] in LETTERS and text[1:3] == ". ":
        return text[0]
    found = SENTENCE.findall(text)
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True)
class Score:
    """Counts over some questions."""

    correct: int
    total: int
    unread: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.total if self.total else 0.0


def score(pairs: Iterable[tuple[str, str]]) -> Score:
    """Score (answer text, right letter) pairs."""
    read = [(parse(text), right) for text, right in pairs]
    return Score(
        correct=sum(letter == right for letter, right in read),
        total=len(read),
        unread=sum(letter is None for letter, _ in read),
    )
