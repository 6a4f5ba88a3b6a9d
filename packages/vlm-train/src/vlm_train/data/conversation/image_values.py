"""Reads the value of an image in a row: a file name, or an inline image as bytes, base64 or a `data:` URL."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vlm_core.errors import BadSample
from vlm_core.io.files import MAX_BYTES
from vlm_train.config.unknown_keys import is_empty

INSIDE = ("bytes", "base64", "data")
LOCATIONS = ("image", "image_url", "source", "url", "path")
ABOUT = frozenset(
    ("type", "detail", "media_type", "mime_type", "format", "width", "height", "size", "name", "id")
)
"""Keys of an image's mapping that don't affect its pixels."""


@dataclass(frozen=True)
class InlineImage:
    """An image stored in its row, decoded on access."""

    data: bytes | str = field(repr=False)

    def decode(self, where: str) -> bytes:
        """The bytes of the image file; raises `BadSample` for more than `MAX_BYTES` and for invalid base64."""
        text = self.data
        if isinstance(text, str) and _is_data_url(text):
            text = text.partition(",")[2]
        size = len(text) if isinstance(text, bytes) else len(text) * 3 // 4
        if size > MAX_BYTES:
            raise BadSample("too-large", f"{where}: {size} bytes; at most {MAX_BYTES} are read")
        if isinstance(text, bytes):
            return text
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadSample("damaged", f"{where}: the image is not valid base64: {error}") from None


def image_value(value: Any, where: str) -> Any:
    """An `InlineImage` or the name of an image. Any other value is returned as is; `ImageFolder.locate` refuses it.

    Raises `BadSample` for a mapping with unknown keys and for a `data:` URL that is not an image.
    """
    if isinstance(value, Mapping):
        value = _from_mapping(value, where)
    if isinstance(value, bytes | bytearray):
        return InlineImage(bytes(value))
    if isinstance(value, str) and _is_data_url(value):
        _check_data_url(value, where)
        return InlineImage(value)
    return value


def _from_mapping(mapping: Mapping[str, Any], where: str) -> Any:
    filled = {key: value for key, value in mapping.items() if not is_empty(value)}
    if unknown := [key for key in filled if key not in (*INSIDE, *LOCATIONS, *ABOUT)]:
        keys = ", ".join((*INSIDE, *LOCATIONS))
        raise BadSample("schema", f"{where}: unknown key {unknown[0]!r} of an image; possible: {keys}")
    inside = [key for key in INSIDE if key in filled]
    named = [key for key in LOCATIONS if key in filled]
    if len(inside) > 1 or (not inside and len(named) > 1):
        raise BadSample(
            "schema", f"{where}: an image is given twice, by {' and '.join(inside or named)}; give one"
        )
    if inside:  # a name next to the bytes is their origin
        value = filled[inside[0]]
        return value if not isinstance(value, str) or _is_data_url(value) else InlineImage(value)
    value = filled[named[0]] if named else None
    if isinstance(value, Mapping):
        inner = {key: item for key, item in value.items() if not isinstance(item, Mapping)}
        return _from_mapping(inner, where)
    return value


def _is_data_url(text: str) -> bool:
    return text[:5].lower() == "data:"


def _check_data_url(url: str, where: str) -> None:
    head, comma, _ = url[5:200].partition(",")
    kind = head.split(";")[0].lower()
    if not comma or not head.lower().endswith(";base64"):
        raise BadSample("schema", f"{where}: {url!r:.60} is not a base64 data: URL")
    if kind and kind != "application/octet-stream" and not kind.startswith("image/"):
        raise BadSample("schema", f"{where}: the data: URL holds {kind}, not an image")
