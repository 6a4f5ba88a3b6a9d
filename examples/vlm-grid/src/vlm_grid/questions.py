"""Questions about a marked cell of a grid and its neighbours, and their conversations."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from typing import Any, NamedTuple

SIDE = 3
"""Cells in a row and in a column."""
_NEIGHBOURS = (
    ("row", "left of", 0, -1),
    ("row", "right of", 0, 1),
    ("column", "above", -1, 0),
    ("column", "below", 1, 0),
)


class QAPair(NamedTuple):
    """A question with its category and answer."""

    category: str
    question: str
    answer: str


def neighbours(cells: Sequence[str], marked: int) -> Iterator[tuple[str, str, str]]:
    """Of each neighbour of the cell `marked`: `row` or `column`, its place ("left of"), and its content."""
    row, column = divmod(marked, SIDE)
    for category, place, down, across in _NEIGHBOURS:
        if 0 <= row + down < SIDE and 0 <= column + across < SIDE:
            yield category, place, cells[marked + SIDE * down + across]


def alternating(pairs: Sequence[QAPair], categories: Sequence[str], seed: str) -> list[QAPair]:
    """The questions of some categories in a seeded order, alternating between the categories."""
    rng = random.Random(seed)
    groups = [[one for one in pairs if one.category == category] for category in categories]
    for group in groups:
        rng.shuffle(group)
    rng.shuffle(groups)
    return [one for one in chain.from_iterable(zip_longest(*groups)) if one]


def conversations(name: str, pairs: Sequence[QAPair], turns: int, image: list[str]) -> list[dict[str, Any]]:
    """Rows with `turns` questions each about one image; the last question of a row gives its category."""
    return [
        _conversation(f"{name}-{start}", pairs[start : start + turns], image)
        for start in range(0, len(pairs), turns)
    ]


def _conversation(name: str, pairs: Sequence[QAPair], image: list[str]) -> dict[str, Any]:
    turns = [
        {"from": speaker, "value": value}
        for one in pairs
        for speaker, value in (("human", one.question), ("gpt", one.answer))
    ]
    if image:
        turns[0]["value"] = f"<image>\n{turns[0]['value']}"
    return {"id": name, "image": image, "conversations": turns, "category": pairs[-1].category}
