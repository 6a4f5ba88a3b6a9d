"""Scenes and their questions as plain data."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Category = Literal["row", "column"]
SIDE = 3
ANSWERS = ("trouser", "pullover", "sneaker")
"""The classes around the bag, each in up to three cells."""
_NEIGHBOURS: tuple[tuple[Category, str, int, int], ...] = (
    ("row", "left of", 0, -1),
    ("row", "right of", 0, 1),
    ("column", "above", -1, 0),
    ("column", "below", 1, 0),
)


@dataclass(frozen=True)
class Scene:
    """Classes and item numbers of the cells, row by row; the bag is in cell `bag`."""

    name: str
    classes: tuple[str, ...]
    items: tuple[int, ...]
    bag: int

    def questions(self) -> list[tuple[Category, str, str]]:
        """Category, question and answer of every question about the bag's neighbours."""
        row, column = divmod(self.bag, SIDE)
        return [
            (category, f"what is {words} the bag?", self.classes[self.bag + SIDE * down + across])
            for category, words, down, across in _NEIGHBOURS
            if 0 <= row + down < SIDE and 0 <= column + across < SIDE
        ]


def scene(name: str, by_class: dict[str, Sequence[int]]) -> Scene:
    """The scene that `name` seeds: each class of `ANSWERS` in three cells, one of these cells then gets the bag.

    `by_class` has the numbers of each class's items.
    """
    rng = random.Random(name)
    classes = [c for c in ANSWERS for _ in range(SIDE)]
    rng.shuffle(classes)
    bag = rng.randrange(SIDE**2)
    classes[bag] = "bag"
    items = tuple(int(rng.choice(by_class[c])) for c in classes)
    return Scene(name, tuple(classes), items, bag)
