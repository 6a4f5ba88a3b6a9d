"""Dividing a sequence's time into parts, where sequences and channels alone leave a GPU idle."""

from __future__ import annotations

from functools import cache

MULTIPROCESSORS = 132
"""Of an H200. Other GPUs divide alike, so that results don't depend on the GPU."""
LEAST, MOST = 3, 64
"""Tiles of a part, and parts of a sequence."""


@cache
def divide(tiles: int, blocks: int, resident: int) -> tuple[int, int]:
    """Parts of time and the tiles of each, for so many blocks a part.

    Least is the work of the busiest multiprocessor, of which `resident` blocks run at the cost of one; every part costs
    about a tile more, and passing states on.
    """

    def cost(each: int) -> tuple[int, int]:
        share = -(-blocks * -(-tiles // each) // MULTIPROCESSORS)
        return max(resident, share) * (each + 1), -each

    least = min(tiles, max(LEAST, -(-tiles // MOST)))
    each = min(range(max(1, least), max(1, tiles) + 1), key=cost)
    return -(-tiles // each), each
