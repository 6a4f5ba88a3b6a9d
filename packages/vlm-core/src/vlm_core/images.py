"""Image files to RGB, one rule for every kind of file, and limits before any pixel is decoded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from vlm_core.errors import BadSample
from vlm_core.files import read_file

MAX_PIXELS = 64_000_000
MAX_ASPECT = 200
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""What is read, told by content. Pillow knows more, and would start Ghostscript for one of them (EPS)."""


@dataclass(frozen=True)
class StoredImage:
    """An image that has no file of its own: `read` gives the bytes of an image file, when they are asked for.

    `name` says which image it is, in messages and for good: equal names are one image. `read` must survive pickling,
    for worker processes (`partial` of a module's function, a bound method); it raises `BadSample`.
    """

    name: str
    read: Callable[[], bytes] = field(repr=False, compare=False)


ImageSource = str | Path | StoredImage
"""An image of a row: the path of a file, or one that is stored elsewhere."""


def image_name(source: ImageSource) -> str:
    """What messages call an image, and what tells it from others."""
    return source.name if isinstance(source, StoredImage) else str(source)


def image_bytes(source: ImageSource) -> bytes:
    """The bytes of the image file, undecoded; raises `BadSample` as `read_file` does."""
    return source.read() if isinstance(source, StoredImage) else read_file(source)


def load_image(source: ImageSource) -> Image.Image:
    """Read an image as upright RGB.

    Transparency is laid on white, the first frame of several is taken.
    Raises `BadSample` naming the file when it is missing, no regular file, not an image, damaged, has more than
    `MAX_PIXELS` pixels, or is more than `MAX_ASPECT` times as long as wide.
    """
    return decode_image(image_bytes(source), image_name(source))


class ImageContent(NamedTuple):
    """What an image shows, whatever its file: a SHA-256 of its upright RGB pixels, shorter and longer side."""

    sha256: str
    sides: tuple[int, int]


def image_content(source: ImageSource) -> ImageContent:
    """The content of an image; raises `BadSample` as `load_image` does."""
    return _content(load_image(source))


def image_content_if(source: ImageSource, sides: Container[tuple[int, int]]) -> ImageContent | None:
    """As `image_content`; None, without decoding it, for an image whose sides are not among `sides`."""
    data, name = image_bytes(source), image_name(source)
    with _opened(data, name) as image:
        if _sides(image) not in sides:
            return None
    return _content(decode_image(data, name))


def _sides(image: Image.Image) -> tuple[int, int]:
    """The same before and after an image is turned upright."""
    return min(image.size), max(image.size)


def _content(image: Image.Image) -> ImageContent:
    return ImageContent(sha256(f"{image.size}".encode() + image.tobytes()).hexdigest(), _sides(image))


def decode_image(data: bytes, name: str) -> Image.Image:
    """As `load_image`, from the bytes of a file; `name` is what messages call it."""
    with _opened(data, name) as image:
        ImageOps.exif_transpose(image, in_place=True)  # without a copy of what lies right
        return to_rgb(image)


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image.Image]:
    """An image file whose size is allowed; what goes wrong in reading it is a `BadSample` that names it."""
    try:
        with warnings.catch_warnings():
            # what Pillow warns of (odd EXIF, a palette's transparency, size) is handled here or harmless
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data), formats=_formats()) as image:
                _check_size(*image.size)
                yield image
    except MemoryError:
        raise
    except BadSample as error:
        raise BadSample(error.reason, f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise BadSample(
            "not-an-image", f"{name}: not an image of a kind that is read ({', '.join(_formats())})"
        ) from None
    except Image.DecompressionBombError as error:
        raise BadSample("too-many-pixels", f"{name}: cannot decode this image: {error}") from None
    except Exception as error:  # hostile bytes make decoders raise nearly anything
        raise BadSample("damaged", f"{name}: cannot decode this image: {error}") from None


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        limit = f"at most {MAX_PIXELS // 10**6} megapixels are read"
        raise BadSample("too-many-pixels", f"{width}×{height} pixels; {limit}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadSample("too-narrow", f"{width}×{height} pixels; more than {MAX_ASPECT}:1 is no picture")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB: 16-bit greys are rescaled (Pillow would clip them), alpha is laid on white.

    What is RGB already is returned, not copied.
    Raises `BadSample` for 32-bit integers and floats: nothing says what is white in them.
    """
    if image.mode in ("I", "F"):
        raise BadSample(
            "no-range", f"pixels of mode {image.mode} (32 bits) have no defined white; use 8 or 16"
        )
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def thumbnail(source: ImageSource, size: int = 96) -> bytes:
    """An image as a small PNG file; raises `BadSample`."""
    image, file = load_image(source), BytesIO()
    image.thumbnail((size, size))
    image.save(file, "PNG")
    return file.getvalue()
