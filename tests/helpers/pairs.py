"""Combinations of options: the quick run has every pair of values, the slow one all the others."""

from itertools import combinations, product
from typing import Any

import pytest

Pair = tuple[tuple[int, int], ...]


def _pairs(row: tuple[int, ...]) -> set[Pair]:
    """The pairs of (option, value) that a combination contains."""
    return set(combinations(enumerate(row), 2))


def paired(*options: list[Any]) -> list[Any]:
    """The product of three options or more, as parameters for `pytest.mark.parametrize`.

    Unmarked are combinations that contain, together, every value of an option with every value of each other one:
    always that with most pairs that are missing. The rest are marked slow.
    """
    rows = list(product(*(range(len(values)) for values in options)))
    quick: set[tuple[int, ...]] = set()
    missing = set().union(*map(_pairs, rows))
    while missing:
        best = max(rows, key=lambda row: len(_pairs(row) & missing))
        quick.add(best)
        missing -= _pairs(best)
    return [
        pytest.param(
            *(values[i] for values, i in zip(options, row, strict=True)),
            marks=() if row in quick else pytest.mark.slow,
        )
        for row in rows
    ]
