"""Errors that the checks of all formats raise."""

from __future__ import annotations

from typing import NoReturn

from vlm_core.errors import BadSample

COSTLY = "too-costly"
"""`BadSample` reason of an image that takes too much time or memory to decode."""
VARIANT = "variant"
"""`BadSample` reason of an unsupported variant of a supported format."""
MAX_METADATA = 16 * 2**20
"""Limit in bytes of text, colour profile, EXIF and other metadata of one image."""


def costly(what: str) -> NoReturn:
    """Refuse a file for the work that it makes."""
    raise BadSample(COSTLY, f"{what}: it costs too much to decode; save it anew, as PNG or JPEG")


def variant(what: str) -> NoReturn:
    """Refuse a file for its variant of a format."""
    raise BadSample(VARIANT, f"{what} is not read; convert it to PNG or JPEG")
