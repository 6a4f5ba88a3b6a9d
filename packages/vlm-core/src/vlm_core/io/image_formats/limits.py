"""What every format's check raises."""

from __future__ import annotations

from typing import NoReturn

from vlm_core.errors import BadSample

COSTLY = "too-costly"
"""Reason of an image that is small enough but takes its decoder too much time or memory."""
VARIANT = "variant"
"""Reason of a file in a rare variant of a format that is read otherwise."""
MAX_METADATA = 16 * 2**20
"""Bytes of text, colour profile, EXIF and the like in one image."""


def costly(what: str) -> NoReturn:
    """Refuse a file for the work that it makes."""
    raise BadSample(COSTLY, f"{what}: it costs too much to decode; save it anew, as PNG or JPEG")


def variant(what: str) -> NoReturn:
    """Refuse a file for its variant of a format."""
    raise BadSample(VARIANT, f"{what} is not read; convert it to PNG or JPEG")
