"""Reads the value of an image or video in a row: a file name, or its bytes inline, in base64 or a `data:` URL."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vlm_core.errors import BadSample
from vlm_core.io.files import MAX_BYTES
from vlm_train.config.unknown_keys import is_empty

INSIDE = ("bytes", "base64", "data")
LOCATIONS = ("image", "image_url", "source", "url", "path")
VIDEO_LOCATIONS = ("video", "video_url", "source", "url", "path")
Medium = Literal["image", "video"]
_LOCATIONS: dict[Medium, tuple[str, ...]] = {"image": LOCATIONS, "video": VIDEO_LOCATIONS}
ABOUT = frozenset(
    ("type", "detail", "media_type", "mime_type", "format", "width", "height", "size", "name", "id")
)
"""Keys of an image's mapping that don't affect its pixels."""


@dataclass(frozen=True)
class InlineImage:
    """An image or video stored in its row, decoded on access."""

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


def filled_values(record: Mapping[str, Any], keys: Sequence[str], where: str, media: str) -> list[Any]:
    """The values of the one key of `keys` that has any; raises `BadSample` if several have."""
    filled = [key for key in keys if record.get(key) is not None and record[key] not in ("", [])]
    if len(filled) > 1:
        raise BadSample("schema", f"{where}: {media} under both {' and '.join(map(repr, filled))}")
    value = record[filled[0]] if filled else []
    return value if isinstance(value, list) else [value]


def image_value(value: Any, where: str) -> Any:
    """An `InlineImage` or the name of an image. Any other value is returned as is; `ImageFolder.locate` refuses it.

    Raises `BadSample` for a mapping with unknown keys and for a `data:` URL that is not an image.
    """
    return media_value(value, where, "image")


def media_value(value: Any, where: str, medium: Medium) -> Any:
    """As `image_value`, for a `medium`."""
    if isinstance(value, Mapping):
        value = _from_mapping(value, where, medium)
    if isinstance(value, bytes | bytearray):
        return InlineImage(bytes(value))
    if isinstance(value, str) and _is_data_url(value):
        _check_data_url(value, where, medium)
        return InlineImage(value)
    return value


def _from_mapping(mapping: Mapping[str, Any], where: str, medium: Medium) -> Any:
    filled = {key: value for key, value in mapping.items() if not is_empty(value)}
    locations = _LOCATIONS[medium]
    article = {"image": "an image", "video": "a video"}[medium]
    if unknown := [key for key in filled if key not in (*INSIDE, *locations, *ABOUT)]:
        keys = ", ".join((*INSIDE, *locations))
        raise BadSample("schema", f"{where}: unknown key {unknown[0]!r} of {article}; possible: {keys}")
    inside = [key for key in INSIDE if key in filled]
    named = [key for key in locations if key in filled]
    if len(inside) > 1 or (not inside and len(named) > 1):
        raise BadSample(
            "schema", f"{where}: {article} is given twice, by {' and '.join(inside or named)}; give one"
        )
    if inside:  # a name next to the bytes is their origin
        value = filled[inside[0]]
        return value if not isinstance(value, str) or _is_data_url(value) else InlineImage(value)
    value = filled[named[0]] if named else None
    if isinstance(value, Mapping):
        inner = {key: item for key, item in value.items() if not isinstance(item, Mapping)}
        return _from_mapping(inner, where, medium)
    return value


def _is_data_url(text: str) -> bool:
    return text[:5].lower() == "data:"


def _check_data_url(url: str, where: str, medium: Medium) -> None:
    head, comma, _ = url[5:200].partition(",")
    kind = head.split(";")[0].lower()
    if not comma or not head.lower().endswith(";base64"):
        raise BadSample("schema", f"{where}: {url!r:.60} is not a base64 data: URL")
    if kind and kind != "application/octet-stream" and not kind.startswith(f"{medium}/"):
        article = {"image": "an image", "video": "a video"}[medium]
        other = next((name for name in _LOCATIONS if kind.startswith(f"{name}/")), None)
        hint = f"; give it as a part of type {other!r}, or under {other!r}" if other else ""
        raise BadSample("schema", f"{where}: the data: URL holds {kind}, not {article}{hint}")
