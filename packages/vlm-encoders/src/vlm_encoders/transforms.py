"""PIL images to tensors of one size, with Pillow's antialiased bicubic filter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlm_core.images import MAX_PIXELS, to_rgb

BICUBIC = Image.Resampling.BICUBIC


def to_pixels(image: Image.Image, height: int, width: int, fit: str, mean: Sequence[float]) -> Tensor:
    """Any Pillow image -> float32 (3, height, width) in [0, 1].

    `fit` says what becomes of another aspect ratio: "resize" squashes, "pad" centres the picture on the
    colour `mean` (as LLaVA), "crop" keeps the largest centred part.
    """
    image = to_rgb(image)
    if fit == "pad":
        image = _pad(image, height, width, mean)
    box = _centre(image.size, height, width) if fit == "crop" else None
    image = image.resize((width, height), BICUBIC, box=box)
    # Pillow's buffer is read-only, hence the copy
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)


def _pad(image: Image.Image, height: int, width: int, mean: Sequence[float]) -> Image.Image:
    """The picture in the middle of a canvas of the target's aspect ratio."""
    if max(image.size) ** 2 > MAX_PIXELS:  # a long strip would need a canvas of gigabytes
        image = image.copy()
        image.thumbnail((8 * width, 8 * height), BICUBIC)
    w, h = image.size
    canvas = (max(w, round(h * width / height)), max(h, round(w * height / width)))
    red, green, blue = (round(255 * value) for value in mean)
    padded = Image.new("RGB", canvas, (red, green, blue))
    padded.paste(image, ((canvas[0] - w) // 2, (canvas[1] - h) // 2))
    return padded


def _centre(size: tuple[int, int], height: int, width: int) -> tuple[float, float, float, float]:
    """The largest centred box (left, top, right, bottom) of the target's aspect ratio."""
    w, h = size
    scale = min(w / width, h / height)
    left, top = (w - scale * width) / 2, (h - scale * height) / 2
    return left, top, w - left, h - top
