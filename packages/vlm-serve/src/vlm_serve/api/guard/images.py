"""Images and videos that a request names: where they may come from, and limits that are checked before decoding."""

from __future__ import annotations

import binascii
import os
from urllib.parse import unquote_to_bytes, urlsplit

import anyio.to_thread

from vlm_core.errors import BadSample, UserError
from vlm_core.io.files import read_bytes
from vlm_core.io.image_folder import ImageFolder
from vlm_core.io.images import size_of
from vlm_core.markup.printable import printable
from vlm_serve.api.guard.errors import RequestError
from vlm_serve.api.guard.https import fetch_https, too_many_bytes
from vlm_serve.api.guard.settings import ServerSettings
from vlm_serve.engine.request import ImageFile, VideoFile


def check_count(number: int, field: str, settings: ServerSettings) -> None:
    """Raise `RequestError` if `field` has more images and videos than allowed; called before one is fetched."""
    if number > settings.max_images:
        text = (
            f"{field}: {number} images and videos; at most {settings.max_images} are allowed in one request."
        )
        raise RequestError(400, text, param=field, code="too_many_images")


async def fetch_image(url: str, name: str, settings: ServerSettings) -> ImageFile:
    """The bytes of an image, whose kind and size its header shows to be allowed; `name` stands for it in messages.

    Its content decides, not the type that the URL or a server tells. Raises `RequestError`.
    """
    data = await _fetch(url, name, settings)
    await anyio.to_thread.run_sync(_check_pixels, data, name, settings.max_image_pixels)
    return ImageFile(data, name)


async def fetch_video(url: str, name: str, settings: ServerSettings) -> VideoFile:
    """The bytes of a video; as `fetch_image`, but its frames' size is checked when it is decoded."""
    return VideoFile(await _fetch(url, name, settings), name)


async def _fetch(url: str, name: str, settings: ServerSettings) -> bytes:
    scheme = url[:16].partition(":")[0].lower()
    if scheme == "data":
        return await anyio.to_thread.run_sync(_read_data_url, url, name, settings.max_image_bytes)
    if scheme == "file":
        return await anyio.to_thread.run_sync(_read_local, url, name, settings)
    if scheme in ("http", "https"):
        if not settings.image_hosts:
            text = f"{name}: this server fetches no images from other hosts; send it as a data: URL."
            raise RequestError(400, text, code="image_not_allowed")
        return await fetch_https(url, name, settings)
    text = f"{name}: expected a URL that begins with data:image/…;base64, or https:."
    raise RequestError(400, text, code="invalid_image_url")


def _read_data_url(url: str, name: str, limit: int) -> bytes:
    head, comma, payload = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        text = f"{name}: a data: URL must have the form data:image/png;base64,… with the file in base64."
        raise RequestError(400, text, code="invalid_image_url")
    if len(payload) > 4 * limit:  # even if every character were percent-encoded
        raise too_many_bytes(name, limit)
    try:
        encoded = unquote_to_bytes(payload) if "%" in payload else payload.encode("ascii")
        encoded = encoded.translate(None, b" \t\r\n")
        if 3 * len(encoded) // 4 > limit + 2:
            raise too_many_bytes(name, limit)
        data = binascii.a2b_base64(encoded, strict_mode=True)
    except (UnicodeEncodeError, binascii.Error):
        raise RequestError(400, f"{name}: invalid base64.", code="invalid_base64") from None
    if len(data) > limit:
        raise too_many_bytes(name, limit)
    return data


def _read_local(url: str, name: str, settings: ServerSettings) -> bytes:
    if not settings.image_folders:
        raise RequestError(400, f"{name}: this server reads no local files.", code="image_not_allowed")
    for folder in settings.image_folders:
        try:
            path = ImageFolder(str(folder)).locate(_absolute(url, name), name)
            return read_bytes(os.path.realpath(path), settings.max_image_bytes)
        except BadSample as error:
            if error.reason == "path":  # outside of this folder: nothing was read, and nothing is told
                continue
            text = f"{name}: no such image file in the folders that this server reads."
            raise RequestError(400, text, code="image_unavailable") from None
        except UserError:
            text = f"{name}: the file cannot be read, or has more than {settings.max_image_bytes} bytes."
            raise RequestError(400, text, code="image_unavailable") from None
    text = f"{name}: this file is in no folder that this server reads."
    raise RequestError(400, text, code="image_not_allowed")


def _absolute(url: str, name: str) -> str:
    """The URL, if it names a file by an absolute path without a query; `ImageFolder` reads it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None
    if parts is None or parts.netloc not in ("", "localhost") or not url.lower().startswith("file:///"):
        text = f"{name}: a local file is named by file:/// and its absolute path."
        raise RequestError(400, text, code="invalid_image_url")
    return url


def _check_pixels(data: bytes, name: str, limit: int) -> None:
    try:
        width, height = size_of(data, name)
    except BadSample as error:
        raise RequestError(400, f"{printable(error, 300).rstrip('.')}.", code="invalid_image") from None
    if width * height > limit:
        text = f"{name}: {width}×{height} pixels; at most {limit} are allowed."
        raise RequestError(400, text, code="image_too_large")
