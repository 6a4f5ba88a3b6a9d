"""Where the tokens of an image's views are in the sequence, from the image's size alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vlm_core.views.rule import Size, ViewRule


@dataclass(frozen=True)
class ViewLayout:
    """An image of `size` pixels as `grid` tiles of `tile` pixels, of `tokens` tokens each.

    `token_grid` are the rows and columns of a view's tokens, which the rule's `rows` needs. All sizes are (height,
    width) or (rows, columns).
    """

    rule: ViewRule
    size: Size
    grid: Size
    tile: Size
    tokens: int
    token_grid: Size | None

    @property
    def views(self) -> int:
        """Number of views: tiles, and the overview if there is one."""
        return self.rule.view_count(self.grid)

    @property
    def overview(self) -> int | None:
        """The number of the overview among the views."""
        if not self.rule.has_overview(self.grid):
            return None
        return 0 if self.rule.overview == "first" else self.views - 1

    @property
    def first_tile(self) -> int:
        """The number of the first tile among the views."""
        return int(self.overview == 0)

    @property
    def positions(self) -> int:
        """Number of positions of the image in the sequence."""
        if not self.rule.rows:
            return self.views * self.tokens
        (top, bottom), (left, right) = self._kept()
        overview = self.tokens if self.overview is not None else 0
        return overview + (bottom - top) * (right - left + self.rule.newline)

    def order(self) -> Tensor | None:
        """The order (P,) of `ImageViews`; None if the tokens stay in the order of the views."""
        if not self.rule.rows:
            return None
        assert self.token_grid is not None, "checked when the model was built"
        (top, bottom), (left, right) = self._kept()
        tile_tokens = torch.arange(self.grid[0] * self.grid[1] * self.tokens)
        tile_tokens = (
            tile_tokens.view(*self.grid, *self.token_grid).permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
        )
        merged = tile_tokens[top:bottom, left:right] + self.first_tile * self.tokens
        if self.rule.newline:
            newline = merged.new_full((len(merged), 1), self.views * self.tokens)
            merged = torch.cat([merged, newline], 1)
        parts = [merged.flatten()]
        if self.overview is not None:
            overview = torch.arange(self.tokens) + self.overview * self.tokens
            parts.insert(0 if self.overview == 0 else 1, overview)
        return torch.cat(parts)

    def _kept(self) -> tuple[Size, Size]:
        """Rows and columns, from and to, of the merged token grid that are not all padding."""
        assert self.token_grid is not None
        rows, columns = self.grid[0] * self.token_grid[0], self.grid[1] * self.token_grid[1]
        if not self.rule.unpad:
            return (0, rows), (0, columns)
        return unpadded(self._size_in_tokens(), (rows, columns), least=int(self.overview is None))

    def _size_in_tokens(self) -> tuple[float, float]:
        """The image's (height, width) in a unit in which tokens are square; pixels if they are."""
        assert self.token_grid is not None
        (height, width), (tall, wide), (rows, columns) = self.size, self.tile, self.token_grid
        if tall * columns == wide * rows:
            return height, width
        return height * rows / tall, width * columns / wide


class PlainLayout(NamedTuple):
    """Views of `tokens` tokens each that stay in their order: the one of an image without tiles, frames of a video."""

    views: int
    tokens: int

    @property
    def positions(self) -> int:
        """Number of positions in the sequence."""
        return self.views * self.tokens


Layout = ViewLayout | PlainLayout


def too_many_views(layouts: Sequence[Layout], length: int, limit: int) -> str | None:
    """A message about a sample of `length` positions whose images have these views; None if none has several.

    `5 views of 729 and 300 tokens are 3,945; max_length is 2,048`.
    """
    views, positions = sum(one.views for one in layouts), sum(one.positions for one in layouts)
    if views == len(layouts):  # also without layouts
        return None
    tokens = layouts[0].tokens
    arranged = "" if positions == views * tokens else f", arranged as {positions:,},"
    images = f"{len(layouts)} images with " if len(layouts) > 1 else ""
    text = f"{images}{views} views of {tokens:,}{arranged} and {length - positions:,} tokens are {length:,}"
    return f"{text}; max_length is {limit:,}"


def unpadded(size: tuple[float, float], grid: Size, least: int = 0) -> tuple[Size, Size]:
    """LLaVA-NeXT's `unpad_image`: rows and columns, from and to, of a grid on which an image of `size` was padded.

    Its rule keeps nothing of an image that is narrower than a token; `least` 1 keeps the middle.
    """
    (height, width), (rows, columns) = size, grid
    if width / height > columns / rows:
        kept = max(least, int(round(height * (columns / width), 7)))
        padding = (rows - kept) // 2
        return (padding, rows - padding), (0, columns)
    kept = max(least, int(round(width * (rows / height), 7)))
    padding = (columns - kept) // 2
    return (0, rows), (padding, columns - padding)
