"""Scenes and their questions as plain data."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Category = Literal["white", "row", "column"]
SIDE = 3
CLASSES = ("trouser", "pullover", "sneaker")
"""The classes of the items, each in three cells, so that counts reveal nothing."""
_NEIGHBOURS: tuple[tuple[Category, str, int, int], ...] = (
    ("row", "left of", 0, -1),
    ("row", "right of", 0, 1),
    ("column", "above", -1, 0),
    ("column", "below", 1, 0),
)


@dataclass(frozen=True)
class Scene:
    """Classes of the cells' items, row by row; the item in cell `white` has a white background."""

    name: str
    classes: tuple[str, ...]
    white: int

    def questions(self) -> list[tuple[Category, str, str]]:
        """Category, question and answer of every question about the scene."""
        questions: list[tuple[Category, str, str]] = [("white", "item on white?", self.classes[self.white])]
        row, column = divmod(self.white, SIDE)
        for category, words, down, across in _NEIGHBOURS:
            if 0 <= row + down < SIDE and 0 <= column + across < SIDE:
                neighbour = self.classes[self.white + SIDE * down + across]
                questions.append((category, f"item {words} the one on white?", neighbour))
        return questions


def scene(name: str) -> Scene:
    """The scene that `name` seeds."""
    rng = random.Random(name)
    classes = [c for c in CLASSES for _ in range(SIDE)]
    rng.shuffle(classes)
    return Scene(name, tuple(classes), rng.randrange(SIDE**2))
