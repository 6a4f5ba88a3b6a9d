"""Clips as plain data: shapes that cross a board of 3 × 3 cells one after another, and questions about them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

SIDE = 3
"""Cells in a row and in a column."""
SHAPES = ("square", "ring", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow")
DIRECTIONS = ("right", "left", "down", "up")
PACES = (1, 2)
"""Frames that a shape stays in a cell."""
LONGEST_GAP = 6
"""Most empty frames between two shapes."""
LONGEST_PASSAGE = SIDE * max(PACES)
"""Frames of the slowest shape."""
Kind = Literal["color", "direction", "count", "first"]
MOST = 9
"""The largest count that is asked for, a single digit."""


class Frame(NamedTuple):
    """A frame with one shape; an empty frame is None."""

    shape: str
    colour: str
    cell: int

    @property
    def name(self) -> str:
        return "-".join((self.shape, self.colour, str(self.cell)))


@dataclass(frozen=True)
class Passage:
    """A shape that crosses the board in a row or a column; `pace` frames in each cell, from frame `start` on."""

    shape: str
    colour: str
    direction: str
    lane: int
    start: int
    pace: int

    @property
    def end(self) -> int:
        """The first frame after it."""
        return self.start + SIDE * self.pace

    def frames(self) -> Iterator[Frame]:
        """Its frames in order."""
        for step in range(SIDE):
            along = step if self.direction in ("right", "down") else SIDE - 1 - step
            across = self.direction in ("right", "left")
            row, column = (self.lane, along) if across else (along, self.lane)
            yield from [Frame(self.shape, self.colour, SIDE * row + column)] * self.pace


class QAPair(NamedTuple):
    """A question with its kind and answer."""

    kind: str
    question: str
    answer: str


@dataclass(frozen=True)
class Clip:
    """Passages in order, in `length` frames; `target` was last seen `distance` frames before the last frame."""

    name: str
    length: int
    passages: tuple[Passage, ...]
    target: str
    distance: int

    def frames(self) -> list[Frame | None]:
        """All frames; None is an empty one."""
        frames: list[Frame | None] = [None] * self.length
        for passage in self.passages:
            frames[passage.start : passage.end] = passage.frames()
        return frames

    def questions(self) -> list[QAPair]:
        """One question of each kind; how often a shape passed is asked up to `MOST` times only."""
        last = next(p for p in reversed(self.passages) if p.shape == self.target)
        pairs = [
            QAPair("color", f"color of the last {self.target}?", last.colour),
            QAPair("direction", f"direction of the last {self.target}?", last.direction),
            QAPair("first", "which came first?", self.passages[0].shape),
        ]
        shape = random.Random(f"count of {self.name}").choice(SHAPES)
        if (count := sum(p.shape == shape for p in self.passages)) <= MOST:
            pairs.append(QAPair("count", f"how many times a {shape}?", str(count)))
        return pairs


def clip(name: str, length: int, distance: int) -> Clip:
    """The clip that `name` seeds: its target's last passage ends `distance` frames before the last frame.

    Other passages fill the frames before it, and passages of other shapes those after it.
    """
    rng = random.Random(name)
    target, pace = rng.choice(SHAPES), rng.choice(PACES)
    end = length - distance
    pace = pace if SIDE * pace <= end else min(PACES)
    last = _passage(rng, target, end - SIDE * pace, pace)
    before = _filled(rng, 0, last.start, SHAPES)
    after = _filled(rng, last.end, length, tuple(shape for shape in SHAPES if shape != target))
    return Clip(name, length, (*before, last, *after), target, distance)


def _filled(rng: random.Random, start: int, stop: int, shapes: tuple[str, ...]) -> Iterator[Passage]:
    """Passages with gaps, from the stop backwards, so that what is asked about has the same neighbours anywhere."""
    passages = []
    while True:
        pace, gap = rng.choice(PACES), rng.randint(0, LONGEST_GAP)
        first = stop - gap - SIDE * pace
        if first < start:
            return reversed(passages)
        passages.append(_passage(rng, rng.choice(shapes), first, pace))
        stop = first


def _passage(rng: random.Random, shape: str, start: int, pace: int) -> Passage:
    return Passage(shape, rng.choice(COLOURS), rng.choice(DIRECTIONS), rng.randrange(SIDE), start, pace)
