"""2D scan mechanisms (paper, section 3.2.3) as permutation tables.

A mechanism maps a grid (h, w) to K lists: the order in which each direction visits the row-major patches.
A package adds one with the hook `vlm_scans`.
"""

from __future__ import annotations


def bsm(h: int, w: int) -> list[list[int]]:
    """Bidirectional: row by row from the top left, and the reverse. K = 2."""
    rows = list(range(h * w))
    return [rows, rows[::-1]]


def csm(h: int, w: int) -> list[list[int]]:
    """Cross: rows, columns, and the reverse of each; the four scan orders of VMamba's cross scan. K = 4."""
    rows = list(range(h * w))
    columns = [i * w + j for j in range(w) for i in range(h)]
    return [rows, columns, rows[::-1], columns[::-1]]
