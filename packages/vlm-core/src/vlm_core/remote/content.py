"""What a message holds: text, and images and videos as data URLs of their files. No path leaves this machine."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_core.encoded_image import EncodedImage
from vlm_core.errors import BadSample
from vlm_core.io.files import read_file
from vlm_core.io.image_formats import format_of
from vlm_core.io.image_formats.video_signatures import CONTAINERS, HEAD, container_of

Part = dict[str, Any]
_TYPES = {
    "PPM": "image/x-portable-pixmap",
    "MP4": "video/mp4",
    "Matroska": "video/x-matroska",
    "AVI": "video/x-msvideo",
    "MPEG-TS": "video/mp2t",
    "MPEG-PS": "video/mpeg",
}
"""Media types of videos, and of the image format whose type is not `image/` and its name."""


def image_part(image: Path | EncodedImage | bytes, name: str = "an image") -> Part:
    """An image as its file is, with the metadata in it; `name` stands for bytes in messages.

    Raises `BadSample` for a file that is no image within the limits of `vlm_core.io.images`: others are not sent.
    """
    from vlm_core.io.images import size_of

    name = str(image) if isinstance(image, Path) else name
    data = _bytes_of(image)
    size_of(data, name)
    return {"type": "image_url", "image_url": {"url": _data_url(data)}}


def _bytes_of(image: Path | EncodedImage | bytes) -> bytes:
    if isinstance(image, bytes):
        return image
    return read_file(image) if isinstance(image, Path) else image.read()


def video_part(path: Path) -> Part:
    """A video file as it is, or an image's, which some servers read as an animation; `BadSample` for other files."""
    data = read_file(path)
    try:
        return {"type": "video_url", "video_url": {"url": _data_url(data)}}
    except BadSample:
        kinds = ", ".join(sorted(CONTAINERS))
        text = f"{path}: not a video of a kind that is read ({kinds}), nor an image"
        raise BadSample("not-a-video", text) from None


def content_of(media: Sequence[Part], text: str) -> str | list[Part]:
    """The content of a user's message: images and videos before the text, as `vlm-chat` asks a local model."""
    if not media:
        return text
    return [*media, *([{"type": "text", "text": text}] if text else [])]


def _data_url(data: bytes) -> str:
    """The file as a URL, with its type by its first bytes; raises `BadSample` for a file of an unknown kind."""
    kind = container_of(data[:HEAD]) or format_of(data)
    if kind is None:
        raise BadSample("not-a-video", "neither an image nor a video")
    return f"data:{_TYPES.get(kind, f'image/{kind.lower()}')};base64,{b64encode(data).decode()}"
