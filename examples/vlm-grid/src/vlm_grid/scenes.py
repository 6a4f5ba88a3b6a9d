"""What stands where, and what can be asked about it: plain data from a seed, no picture yet."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Category = Literal["ring", "row", "column"]
SIDE = 3
COLOURS = ("red", "green", "blue")
_NEIGHBOURS: tuple[tuple[Category, str, int, int], ...] = (
    ("row", "left of", 0, -1),
    ("row", "right of", 0, 1),
    ("column", "above", -1, 0),
    ("column", "below", 1, 0),
)


@dataclass(frozen=True)
class Scene:
    """Cells row by row: each colour three times, so that counting tells nothing; a ring in one, squares elsewhere."""

    colours: tuple[str, ...]
    ring: int

    @property
    def name(self) -> str:
        """Every scene's own: a digit a cell, and the ring's cell."""
        return "".join(str(COLOURS.index(colour)) for colour in self.colours) + f"-{self.ring}"

    def questions(self) -> list[tuple[Category, str, str]]:
        """Category, question and answer of everything that can be asked; all answers are colours."""
        found: list[tuple[Category, str, str]] = [("ring", "color of the ring?", self.colours[self.ring])]
        row, column = divmod(self.ring, SIDE)
        for category, words, down, across in _NEIGHBOURS:
            if 0 <= row + down < SIDE and 0 <= column + across < SIDE:
                neighbour = self.colours[self.ring + SIDE * down + across]
                found.append((category, f"color {words} the ring?", neighbour))
        return found


def scenes(seed: int) -> list[Scene]:
    """Every scene there is, in an order of the seed's own: 1680 arrangements of colours, nine places of the ring."""
    every = [Scene(c, ring) for c in _arrangements(dict.fromkeys(COLOURS, SIDE)) for ring in range(SIDE**2)]
    random.Random(seed).shuffle(every)
    return every


def _arrangements(left: dict[str, int]) -> Iterator[tuple[str, ...]]:
    """Every order of so many of each colour."""
    if not any(left.values()):
        yield ()
    for colour, count in left.items():
        if count:
            for rest in _arrangements({**left, colour: count - 1}):
                yield (colour, *rest)
