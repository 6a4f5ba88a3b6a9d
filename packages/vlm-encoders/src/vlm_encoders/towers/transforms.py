"""PIL images to tensors of one size, with Pillow's antialiased filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.io.images import MAX_PIXELS, to_rgb

BICUBIC = "bicubic"
"""The default filter, for weights whose configs name none."""


@dataclass(frozen=True)
class Resizing:
    """How an image is brought to the size of the model.

    `resize_mode` handles another aspect ratio: "resize" distorts the image (as Cobra), "pad" centres it on a canvas of
    the mean colour (as LLaVA), "crop" keeps the largest centred box, its sides scaled by `crop_pct`. `interpolation`
    names one of Pillow's filters; raises `UserError` for any other.
    """

    resize_mode: str = "resize"
    interpolation: str = BICUBIC
    crop_pct: float = 1.0

    def __post_init__(self) -> None:
        if self.interpolation.upper() not in Image.Resampling.__members__:
            known = ", ".join(Image.Resampling.__members__).lower()
            raise UserError(
                f"interpolation {self.interpolation!r} is none of Pillow's filters ({known}); "
                "name one in the spec, as interpolation"
            )

    def __str__(self) -> str:
        crop = (
            f" of crop_pct: {self.crop_pct:.4g}" if self.resize_mode == "crop" and self.crop_pct < 1 else ""
        )
        return f"resize_mode: {self.resize_mode}{crop} with interpolation: {self.interpolation}"

    @property
    def filter(self) -> Image.Resampling:
        return Image.Resampling[self.interpolation.upper()]


def to_pixels(
    image: Image.Image, height: int, width: int, resizing: Resizing, mean: Sequence[float]
) -> Tensor:
    """Any Pillow image -> float32 (3, height, width) in [0, 1]. `mean` is the colour of padding.

    The EXIF orientation is ignored here; `vlm_core.io.images.load_image` applies it.
    """
    image = to_rgb(image)
    if resizing.resize_mode == "pad":
        image = _pad(image, height, width, resizing.filter, mean)
    box = _centre(image.size, height, width, resizing.crop_pct) if resizing.resize_mode == "crop" else None
    image = image.resize((width, height), resizing.filter, box=box)
    # Pillow's buffer is read-only, hence the copy
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)


def _pad(
    image: Image.Image, height: int, width: int, resampling: Image.Resampling, mean: Sequence[float]
) -> Image.Image:
    """The image centred on a canvas with the aspect ratio of height × width."""
    if max(image.size) ** 2 > MAX_PIXELS:  # a long strip would need a canvas of gigabytes
        image = image.copy()
        image.thumbnail((8 * width, 8 * height), resampling)
    w, h = image.size
    canvas = (max(w, round(h * width / height)), max(h, round(w * height / width)))
    red, green, blue = (min(255, max(0, int(255 * value))) for value in mean)  # rounded down, as LLaVA does
    padded = Image.new("RGB", canvas, (red, green, blue))
    padded.paste(image, ((canvas[0] - w) // 2, (canvas[1] - h) // 2))
    return padded


def _centre(
    size: tuple[int, int], height: int, width: int, share: float
) -> tuple[float, float, float, float]:
    """The largest centred box (left, top, right, bottom) with that aspect ratio, its sides scaled by `share`."""
    w, h = size
    scale = min(w / width, h / height) * share
    left, top = (w - scale * width) / 2, (h - scale * height) / 2
    return left, top, w - left, h - top
