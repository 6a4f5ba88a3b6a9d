"""MME: two yes/no questions per image; a task's score is accuracy plus accuracy over pairs, each in percent."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def parse(text: str) -> str:
    """ "yes", "no", or "other", which is always wrong.

    Only the first four characters count, "yes" first: "Eyes" is yes; "Not sure", "None" and "North"
    are no; "Y" and "The answer is yes" are other. Nothing is stripped.
    """
    start = text.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def parse_normalized(text: str) -> str:
    """The one of the words yes and no that the answer holds; both or neither is other."""
    words = {"yes", "no"} & set(re.findall(r"\w+", text.lower()))
    return words.pop() if len(words) == 1 else "other"


@dataclass(frozen=True)
class Task:
    """Right answers among all, and pairs with both right among pairs."""

    right: int
    answers: int
    both: int
    pairs: int

    @property
    def accuracy(self) -> float:
        return self.right / self.answers if self.answers else 0.0

    @property
    def accuracy_plus(self) -> float:
        return self.both / self.pairs if self.pairs else 0.0

    @property
    def points(self) -> float:
        """0 to 200."""
        return 100 * self.accuracy + 100 * self.accuracy_plus


def score(pairs: Iterable[tuple[bool, bool]]) -> Task:
    """Score a task from whether the first and the second answer to each image are right."""
    hits = list(pairs)
    right = sum(a + b for a, b in hits)
    return Task(right, 2 * len(hits), sum(a and b for a, b in hits), len(hits))
