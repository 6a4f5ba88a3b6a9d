"""Images to what the model takes: one tensor of the encoder's transform, or tiles and an overview."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.interfaces import Connector, Encoder
from vlm_core.io.images import MAX_PIXELS
from vlm_core.views.image_views import ImageInput, ImageViews
from vlm_core.views.layout import ViewLayout
from vlm_core.views.rule import Size, ViewRule
from vlm_core.views.tiles import cut, on_canvas


@dataclass(frozen=True)
class ImageProcessor:
    """Makes the input of one image; may be pickled for a worker process.

    `tile` is the encoder's image size, `tokens` and `token_grid` those of a view after the connector. Without `rule` an
    image is `transform(image)`. `fill` is the colour of padding, None: the image is stretched.
    """

    transform: Callable[[Image.Image], Tensor]
    tile: Size
    tokens: int
    token_grid: Size | None = None
    rule: ViewRule | None = None
    resampling: Image.Resampling = Image.Resampling.BICUBIC
    fill: tuple[int, int, int] | None = None

    def layout(self, size: tuple[int, int]) -> ViewLayout:
        """The views of an image of `size` (width, height)."""
        assert self.rule is not None
        width, height = size
        grid = self.rule.grid(height, width, self.tile)
        return ViewLayout(self.rule, (height, width), grid, self.tile, self.tokens, self.token_grid)

    def image_tokens(self, size: tuple[int, int]) -> int:
        """Number of positions of an image of `size` (width, height), before anything is decoded."""
        return self.tokens if self.rule is None else self.layout(size).positions

    @property
    def most_views(self) -> int:
        """The most views that an image can have."""
        return 1 if self.rule is None else max(map(self.rule.view_count, self.rule.all_grids()))

    def __call__(self, image: Image.Image) -> ImageInput:
        """An upright RGB image -> its pixels (3, h, w) or its views."""
        if self.rule is None:
            return self.transform(image)
        layout = self.layout(image.size)
        return self.arranged(layout, pixels=torch.stack(self.views(image, layout, range(layout.views))))

    def views(self, image: Image.Image, layout: ViewLayout, numbers: Sequence[int]) -> list[Tensor]:
        """Pixels (3, h, w) of some of the image's views."""
        tiles: list[Image.Image] = []
        if any(number != layout.overview for number in numbers):
            canvas = layout.grid[0] * self.tile[0], layout.grid[1] * self.tile[1]
            tiles = cut(on_canvas(image, canvas, self.resampling, self.fill), self.tile)
        return [
            self.transform(image if number == layout.overview else tiles[number - layout.first_tile])
            for number in numbers
        ]

    def arranged(
        self, layout: ViewLayout, pixels: Tensor | None = None, features: Tensor | None = None
    ) -> ImageViews:
        """Pixels or features of all views, with their order."""
        order = layout.order()
        return ImageViews(pixels, order, features, None if order is None else self.tokens)


def image_processor(encoder: Encoder, connector: Connector, rule: ViewRule | None) -> ImageProcessor:
    """The image processor of a model; raises `UserError` for a rule that its parts don't support."""
    tile, grid = encoder.image_size, encoder.grid(*encoder.image_size)
    tokens = connector.num_tokens(*grid)
    if rule is None:
        return ImageProcessor(encoder.transform, tile, tokens)
    _check_canvas(rule, tile)
    facts = encoder.preprocessing
    resampling = Image.Resampling[facts.interpolation.upper()] if facts else Image.Resampling.BICUBIC
    fill = None if rule.pad == "none" else (0, 0, 0)
    if rule.pad == "mean":
        if facts is None:
            raise UserError(
                "views.pad: mean: the encoder doesn't report its mean; set pad: black or pad: none"
            )
        red, green, blue = (min(255, max(0, int(255 * value))) for value in facts.mean)
        fill = red, green, blue
    token_grid = connector.token_grid(*grid)
    if rule.rows and token_grid is None:
        raise UserError(
            f"views.arrangement: rows: this connector's {tokens} tokens of a view have no rows and columns; "
            "set arrangement: tiles, or use a connector that keeps the patch grid, such as mlp"
        )
    return ImageProcessor(encoder.transform, tile, tokens, token_grid, rule, resampling, fill)


def _check_canvas(rule: ViewRule, tile: Size) -> None:
    """Raise `UserError` for a grid whose tiles together have more pixels than any image that is read."""
    for rows, columns in rule.all_grids():
        if (pixels := rows * columns * tile[0] * tile[1]) > MAX_PIXELS:
            raise UserError(
                f"views: no image fits [{rows}, {columns}] tiles of {tile[0]}×{tile[1]}: they have {pixels:,} pixels, "
                f"and images of at most {MAX_PIXELS:,} are read; "
                f"{'lower max_tiles' if rule.grids is None else 'leave this grid out'}"
            )


def check_tiles(encoder: Encoder) -> None:
    """Raise `UserError` if the encoder's transform changes a tile of exactly its image size."""
    height, width = encoder.image_size
    values = torch.arange(height * width * 3) * 7919 % 256
    pixels = values.to(torch.uint8).view(height, width, 3)
    tile = Image.frombytes("RGB", (width, height), bytes(pixels.flatten().tolist()))
    if not torch.equal(encoder.transform(tile), pixels.permute(2, 0, 1).float().div(255)):
        facts = encoder.preprocessing
        crop = facts is not None and facts.resize_mode == "crop" and facts.crop_pct < 1
        why = f" (crop_pct {facts.crop_pct:.4g})" if crop and facts else ""
        advice = "set encoder.resize_mode: resize, or encoder.crop_pct: 1.0" if crop else "leave views out"
        raise UserError(
            f"views.tiles: the encoder's transform changes a tile of exactly its image_size {height}×{width}{why}, so "
            f"that neighbouring tiles would not meet; {advice}"
        )
