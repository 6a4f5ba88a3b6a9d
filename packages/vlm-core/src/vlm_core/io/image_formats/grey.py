"""Grey PNG files of other depths than 8 bits: Pillow converts their pixels, but not the value that is transparent."""

from __future__ import annotations

from PIL import Image, ImageChops

KEY = "transparency"


def scale_transparency(image: Image.Image, data: bytes) -> None:
    """Make the transparent value of 2 or 4 bits, in a PNG file's `data`, one of Pillow's 8 bits."""
    key, depth, is_grey = image.info.get(KEY), data[24], data[25] == 0
    if is_grey and depth in (2, 4) and isinstance(key, int) and key < 2**depth:
        image.info[KEY] = key * 255 // (2**depth - 1)


def eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey, rescaled, with an alpha channel if one of its values is transparent."""
    wide = image.convert("I")
    grey = wide.point(lambda value: value * (1 / 257)).convert("L")
    key = image.info.get(KEY)
    grey.info.pop(KEY, None)
    if isinstance(key, int):
        above, below = (_difference(wide, key, sign) for sign in (1, -1))
        grey.putalpha(ImageChops.add(above, below).point([0, *[255] * 255]))
    return grey


def _difference(wide: Image.Image, key: int, sign: int) -> Image.Image:
    """How much pixels are above a value, or below it for a negative sign; 0 to 255."""
    return wide.point(lambda value: value * sign + -sign * key).convert("L")
