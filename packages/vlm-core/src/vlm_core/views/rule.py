"""How an image is cut into tiles: the grid of tiles by the published rules of LLaVA-NeXT and InternVL."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Size = tuple[int, int]
"""(height, width), or rows and columns."""
LLAVA_NEXT_GRIDS = (1, 2), (2, 1), (2, 2), (3, 1), (1, 3)
"""Rows and columns of `image_grid_pinpoints` of LLaVA-1.6, in its order, which decides between equal grids."""


@dataclass(frozen=True)
class ViewRule:
    """The keys of a spec's `views` as plain values.

    `grids` are the choices (rows, columns) of `anyres`; None: `dynamic`, with `tiles` from the least to the most tiles.
    `rows` arranges the tokens of all tiles as rows of one grid; `unpad` then drops padding, `newline` ends each row.
    """

    grids: tuple[Size, ...] | None = LLAVA_NEXT_GRIDS
    tiles: tuple[int, int] = (1, 12)
    overview: Literal["first", "last"] | None = "first"
    pad: Literal["black", "mean", "none"] = "black"
    rows: bool = False
    unpad: bool = False
    newline: bool = False

    def grid(self, height: int, width: int, tile: Size) -> Size:
        """Rows and columns of tiles for an image."""
        if self.grids is None:
            return dynamic_grid(height, width, *self.tiles, tile)
        return anyres_grid(height, width, self.grids, tile)

    def all_grids(self) -> tuple[Size, ...]:
        """Every grid that an image may get."""
        return dynamic_grids(*self.tiles) if self.grids is None else self.grids

    def view_count(self, grid: Size) -> int:
        """Tiles and overview; `dynamic` has no overview of a single tile, which shows the whole image."""
        return grid[0] * grid[1] + self.has_overview(grid)

    def has_overview(self, grid: Size) -> bool:
        return self.overview is not None and (self.grids is not None or grid != (1, 1))


def anyres_grid(height: int, width: int, grids: tuple[Size, ...], tile: Size) -> Size:
    """LLaVA-NeXT's `select_best_resolution`: most pixels of the image kept, then least of the canvas wasted.

    The first of equal grids.
    """
    best, most_kept, least_wasted = grids[0], 0, float("inf")
    for rows, columns in grids:
        canvas_height, canvas_width = rows * tile[0], columns * tile[1]
        scale = min(canvas_width / width, canvas_height / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        wasted = canvas_width * canvas_height - kept
        if kept > most_kept or (kept == most_kept and wasted < least_wasted):
            best, most_kept, least_wasted = (rows, columns), kept, wasted
    return best


@lru_cache(maxsize=64)
def dynamic_grids(fewest: int, most: int) -> tuple[Size, ...]:
    """All grids (rows, columns) of `fewest` to `most` tiles, fewer tiles first, then fewer columns."""
    counts = range(1, most + 1)
    grids = [(rows, columns) for columns in counts for rows in counts if fewest <= rows * columns <= most]
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


@lru_cache(maxsize=4096)
def dynamic_grid(height: int, width: int, fewest: int, most: int, tile: Size) -> Size:
    """InternVL's `find_closest_aspect_ratio`, which Nemotron Nano VL uses too.

    Of grids equally close to the image's aspect ratio the last one, with most tiles, whose area is less than twice the
    image's; the first if none is.
    """
    best, least = (1, 1), float("inf")
    for rows, columns in dynamic_grids(fewest, most):
        difference = abs(width / height - columns / rows)
        small = width * height > 0.5 * tile[0] * tile[1] * rows * columns
        if difference < least or (difference == least and small):
            best, least = (rows, columns), difference
    return best
