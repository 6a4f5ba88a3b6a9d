"""Scenes and their questions as plain data."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vlm_grid.questions import SIDE, QAPair, neighbours

Category = Literal["ring", "row", "column"]
COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Scene:
    """Colours of the cells row by row, each three times, so that counts reveal nothing; a ring in cell `ring`."""

    colours: tuple[str, ...]
    ring: int

    @property
    def name(self) -> str:
        """A unique name: one digit per cell, and the ring's cell."""
        return "".join(str(COLOURS.index(colour)) for colour in self.colours) + f"-{self.ring}"

    def questions(self) -> list[QAPair]:
        """Every question about the scene; all answers are colours."""
        pairs = [QAPair("ring", "color of the ring?", self.colours[self.ring])]
        around = neighbours(self.colours, self.ring)
        return pairs + [
            QAPair(category, f"color {place} the ring?", colour) for category, place, colour in around
        ]


def scenes(seed: int) -> list[Scene]:
    """All scenes in the seed's order: 1680 arrangements of colours times nine places of the ring."""
    all_scenes = [
        Scene(c, ring) for c in _arrangements(dict.fromkeys(COLOURS, SIDE)) for ring in range(SIDE**2)
    ]
    random.Random(seed).shuffle(all_scenes)
    return all_scenes


def _arrangements(counts: dict[str, int]) -> Iterator[tuple[str, ...]]:
    """All orders of `counts` cells of each colour."""
    if not any(counts.values()):
        yield ()
    for colour, count in counts.items():
        if count:
            for others in _arrangements({**counts, colour: count - 1}):
                yield (colour, *others)
