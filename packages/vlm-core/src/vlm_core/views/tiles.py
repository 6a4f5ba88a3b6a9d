"""Resizes an image to a canvas of whole tiles and cuts it, as LLaVA-NeXT's `process_anyres_image`."""

from __future__ import annotations

import math

from PIL import Image

from vlm_core.views.rule import Size


def on_canvas(
    image: Image.Image, canvas: Size, resampling: Image.Resampling, fill: tuple[int, int, int] | None
) -> Image.Image:
    """The image resized to `canvas` (height, width) pixels: centred on the colour `fill`, or for None stretched."""
    height, width = canvas
    if fill is None:
        return image.resize((width, height), resampling)
    wide, tall = width / image.width, height / image.height
    if wide < tall:
        size = width, min(math.ceil(image.height * wide), height)
    else:
        size = min(math.ceil(image.width * tall), width), height
    padded = Image.new("RGB", (width, height), fill)
    padded.paste(image.resize(size, resampling), ((width - size[0]) // 2, (height - size[1]) // 2))
    return padded


def cut(image: Image.Image, tile: Size) -> list[Image.Image]:
    """The tiles (height, width) of an image of whole tiles, row by row."""
    height, width = tile
    corners = [(x, y) for y in range(0, image.height, height) for x in range(0, image.width, width)]
    return [image.crop((x, y, x + width, y + height)) for x, y in corners]
