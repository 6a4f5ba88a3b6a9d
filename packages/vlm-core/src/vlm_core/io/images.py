"""Image files to RGB, with the same rules for all formats, and with limits that are checked before decoding."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeVar

from PIL import ExifTags, Image, UnidentifiedImageError

from vlm_core.errors import BadSample
from vlm_core.io.files import read_start
from vlm_core.io.image_formats import FORMATS, format_of, grey, png, tiff
from vlm_core.io.video.decode import first_frame
from vlm_core.io.video.header import read_header
from vlm_core.io.video.sources import (
    ImageSource,
    StoredImage,
    VideoSource,
    file_digest,
    image_bytes,
    image_name,
)

__all__ = [
    "ImageContent",
    "ImageSource",
    "StoredImage",
    "content_of",
    "decode_image",
    "each_image",
    "image_bytes",
    "image_content",
    "image_content_if",
    "image_name",
    "load_image",
    "size_of",
    "to_rgb",
    "upright_size",
]
MAX_PIXELS = 64_000_000
MAX_ASPECT = 200
START = 2**16
"""Bytes at the beginning of a file in which a JPEG file usually has its sizes; EXIF takes up to 64 KiB."""
_STRIP = 4_000_000
"""Pixels that are converted at once, which limits the memory of a large image."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_SIDEWAYS = (5, 6, 7, 8)
"""Values of the EXIF orientation whose width and height are exchanged."""


def load_image(source: ImageSource) -> Image.Image:
    """Read an image as upright RGB.

    Transparent pixels are blended with white; of several frames, those of a video too, the first is used. Raises
    `BadSample` naming the file if it is missing, not a regular file, not an image, damaged, has more than `MAX_PIXELS`
    pixels, or an aspect ratio above `MAX_ASPECT`.
    """
    if isinstance(source, VideoSource):
        return first_frame(source.file)
    return decode_image(image_bytes(source), image_name(source))


S = TypeVar("S", bound=Hashable)
T = TypeVar("T")


def each_image(sources: Sequence[S], read: Callable[[S], T]) -> list[T]:
    """`read` of each image of one row, called once for an image that the row repeats, as a clip may repeat a frame.

    Of several images, a `BadSample` says which one it is.
    """
    values: dict[S, T] = {}
    for number, source in enumerate(sources, 1):
        if source in values:
            continue
        try:
            values[source] = read(source)
        except BadSample as error:
            if len(sources) == 1:
                raise
            text = f"image {number} of {len(sources)}: {error}"
            raise BadSample(error.reason, text, error.row) from None
    return [values[source] for source in sources]


class ImageContent(NamedTuple):
    """The content of an image, independent of its file: sha256 of its upright RGB pixels, shorter and longer side.

    That of a video is the sha256 of its file's digest, and the sides of its frames.
    """

    sha256: str
    sides: tuple[int, int]


def image_content(source: ImageSource) -> ImageContent:
    """The content of an image; raises `BadSample` as `load_image` does."""
    if isinstance(source, VideoSource):
        return _video_content(source)
    return content_of(image_bytes(source), image_name(source))


def content_of(data: bytes, name: str) -> ImageContent:
    """As `image_content`, from the bytes of a file; messages use `name`."""
    return _content(decode_image(data, name))


def image_content_if(source: ImageSource, sides: Container[tuple[int, int]]) -> ImageContent | None:
    """As `image_content`; None, without decoding it, for an image whose sides are not among `sides`."""
    if isinstance(source, VideoSource):
        content = _video_content(source)
        return content if content.sides in sides else None
    data, name = image_bytes(source), image_name(source)
    with _opened(data, name) as image:
        if _sides(image) not in sides:
            return None
    return content_of(data, name)


def _video_content(source: VideoSource) -> ImageContent:
    header = read_header(source.file)
    return ImageContent(file_digest(source.file), (min(header[2:4]), max(header[2:4])))


def upright_size(source: ImageSource, *, whole: bool = True) -> tuple[int, int]:
    """(width, height) of what `load_image` returns, from the file's header and EXIF; pixels are not decoded.

    Only a PNG file with metadata after its pixels is decoded. Raises `BadSample` as `load_image` does, except for what
    only decoding shows. Unless the `whole` file is to be checked, the first `START` bytes of most JPEG files are read.
    """
    if not whole and isinstance(source, str | Path):
        start = read_start(source, START)
        if len(start) == START and format_of(start) == "JPEG":
            with suppress(BadSample):
                return size_of(start, image_name(source))
    return size_of(image_bytes(source), image_name(source))


def size_of(data: bytes, name: str) -> tuple[int, int]:
    """As `upright_size`, from the bytes of a file; messages use `name`."""
    with _opened(data, name) as image:
        if image.format == "TIFF":  # Pillow turns it while it decodes, and has sides for that
            return image.size
        if image.format == "PNG" and "exif" not in image.info and png.late_metadata(data):
            return decode_image(data, name).size
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)  # PNG's own would decode
        return image.size if orientation not in _SIDEWAYS else (image.height, image.width)


def _sides(image: Image.Image) -> tuple[int, int]:
    """The shorter and longer side, which don't change when an image is rotated."""
    return min(image.size), max(image.size)


def _content(image: Image.Image) -> ImageContent:
    return ImageContent(sha256(f"{image.size}".encode() + image.tobytes()).hexdigest(), _sides(image))


def decode_image(data: bytes, name: str) -> Image.Image:
    """As `load_image`, from the bytes of a file; messages use `name`."""
    with _opened(data, name) as image:
        image.load()
        _check_late_exif(image)
        method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        rgb = to_rgb(image)
        if rgb is not image:
            image.close()  # before another copy is made
        return rgb if method is None else rgb.transpose(method)


def animation_frames(data: bytes, name: str) -> Iterator[tuple[float, Image.Image]]:
    """(seconds, RGB image) of each frame of an animated image; a frame without a duration lasts 0.1 s.

    Raises `BadSample` as `decode_image`, and at once for an image of a single frame.
    """
    with _errors(name):
        image = _open(data)
        if getattr(image, "n_frames", 1) < 2:
            raise BadSample("still", "a single image, not a video or an animation")
    return _frames(image, name)


def _frames(image: Image.Image, name: str) -> Iterator[tuple[float, Image.Image]]:
    milliseconds = 0.0
    for number in range(getattr(image, "n_frames", 1)):
        with _errors(name):
            image.seek(number)
            frame = to_rgb(image.copy())
        yield milliseconds / 1000, frame
        milliseconds += image.info.get("duration") or 100


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image.Image]:
    """An opened image file within the limits of size and decoding cost; errors become `BadSample` with its name."""
    with _errors(name), _open(data) as image:
        yield image


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BadSample("empty", "an empty file (0 bytes)")
    form = format_of(data)
    if form is None:
        raise UnidentifiedImageError
    FORMATS[form].check(data)
    image = Image.open(BytesIO(data), formats=(form,))
    if form == "PNG":
        grey.scale_transparency(image, data)
    _check_size(*image.size, form)
    tiff.check_exif(image.info.get("exif") or b"")
    return image


@contextmanager
def _errors(name: str) -> Iterator[None]:
    """Inside, errors become `BadSample` with the image's name."""
    try:
        with warnings.catch_warnings():
            # Pillow's warnings (EXIF, a palette's transparency, size) are handled here or harmless
            warnings.simplefilter("ignore")
            yield
    except MemoryError:
        raise
    except BadSample as error:
        raise BadSample(error.reason, f"{name}: {error}") from None
    except UnidentifiedImageError:
        kinds = ", ".join(sorted(FORMATS))
        raise BadSample("not-an-image", f"{name}: not an image of a kind that is read ({kinds})") from None
    except Image.DecompressionBombError as error:
        raise BadSample("too-many-pixels", f"{name}: cannot decode this image: {error}") from None
    except Exception as error:  # hostile bytes make decoders raise nearly anything
        raise BadSample("damaged", f"{name}: cannot decode this image: {error}") from None


def _check_late_exif(image: Image.Image) -> None:
    """Check EXIF that a PNG file has after its pixels, or in hexadecimal digits."""
    written = str(image.info.get("Raw profile type exif") or "")
    tiff.check_exif(image.info.get("exif") or bytes.fromhex("".join(written.split("\n")[3:])))


def _check_size(width: int, height: int, form: str) -> None:
    limit = FORMATS[form].max_pixels
    if width * height > limit:
        what = "read" if limit == MAX_PIXELS else f"read from {form}, whose decoder needs much memory"
        raise BadSample(
            "too-many-pixels", f"{width}×{height} pixels; at most {limit // 10**6} megapixels are {what}"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadSample("too-narrow", f"{width}×{height} pixels; more than {MAX_ASPECT}:1 is no picture")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB: 16-bit grey values are rescaled (Pillow would clip them), alpha is blended with white.

    An RGB image is returned without a copy. Raises `BadSample` for 32-bit integers and floats, whose white value is
    undefined.
    """
    if image.mode in ("I", "F"):
        raise BadSample(
            "no-range", f"pixels of mode {image.mode} (32 bits) have no defined white; use 8 or 16"
        )
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    rows = max(1, _STRIP // image.width)
    if rows >= image.height:
        return _convert(image)
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_convert(strip), (0, top))
    return rgb


def _convert(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = grey.eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
