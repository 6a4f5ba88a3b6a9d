"""What any row keeps to: the mark for an image, and text that is text."""

from __future__ import annotations

from vlm_core.errors import BadSample
from vlm_core.placeholders import IMAGE_PLACEHOLDER

PLACEHOLDER = IMAGE_PLACEHOLDER


def check_text(text: str, where: str) -> None:
    """Raise `BadSample` for what JSON can spell but no encoding can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadSample("schema", f"{where}: half of a surrogate pair in {text!r:.60} is no text") from None
