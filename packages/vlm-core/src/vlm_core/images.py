"""Image files to RGB, one rule for every kind of file, and limits before any pixel is decoded."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from vlm_core.errors import UserError

MAX_PIXELS = 64_000_000
MAX_ASPECT = 200


def load_image(path: str | Path) -> Image.Image:
    """Read an image file as upright RGB; transparency is laid on white, the first frame of several is taken.

    Raises `UserError` naming the file when it is missing, not an image, damaged, has more than `MAX_PIXELS`
    pixels, or is more than `MAX_ASPECT` times as long as wide.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                _check_size(path, *image.size)
                return to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise UserError(f"{path}: no such image file") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image that Pillow can read") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot decode this image: {error}") from None


def _check_size(path: str | Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(f"{path}: {width}×{height} pixels; at most {MAX_PIXELS // 10**6} megapixels are read")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(f"{path}: {width}×{height} pixels; more than {MAX_ASPECT}:1 is no picture")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB: 16-bit greys are rescaled (Pillow would clip them), alpha is laid on white."""
    if image.mode.startswith("I;16"):
        image = image.point(lambda value: value / 257).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
