"""Scenes and their questions as plain data."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from vlm_grid.questions import SIDE, QAPair, neighbours

Category = Literal["white", "row", "column"]
CLASSES = ("trouser", "pullover", "sneaker")
"""The classes of the items, each in three cells, so that counts reveal nothing."""


@dataclass(frozen=True)
class Scene:
    """Classes of the cells' items, row by row; the item in cell `white` has a white background."""

    name: str
    classes: tuple[str, ...]
    white: int

    def questions(self) -> list[QAPair]:
        """Every question about the scene; all answers are classes."""
        pairs = [QAPair("white", "item on white?", self.classes[self.white])]
        around = neighbours(self.classes, self.white)
        return pairs + [
            QAPair(category, f"item {place} the one on white?", item) for category, place, item in around
        ]


def scene(name: str) -> Scene:
    """The scene that `name` seeds."""
    rng = random.Random(name)
    classes = [c for c in CLASSES for _ in range(SIDE)]
    rng.shuffle(classes)
    return Scene(name, tuple(classes), rng.randrange(SIDE**2))
