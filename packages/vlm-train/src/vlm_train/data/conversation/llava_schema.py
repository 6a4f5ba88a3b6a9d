"""Rules for every row: the image placeholder, and text that is valid Unicode."""

from __future__ import annotations

from vlm_core.errors import BadSample
from vlm_core.placeholders import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER

PLACEHOLDER = IMAGE_PLACEHOLDER
VIDEO = VIDEO_PLACEHOLDER
"""Placeholder of a video in a row that has one; `<image>` may be a video's, too."""


def check_text(text: str, where: str) -> None:
    """Raise `BadSample` for unpaired surrogates: JSON can escape them, UTF-8 can't encode them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadSample(
            "schema", f"{where}: unpaired surrogate in {text!r:.60}: not valid Unicode text"
        ) from None
