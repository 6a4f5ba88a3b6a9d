"""Output in any console encoding, and decoding of typed text."""

from __future__ import annotations

import codecs
import sys

from vlm_core.errors import UserError

SUBSTITUTES = {
    "×": "x",
    "→": "->",
    "–": "-",
    "—": "-",
    "−": "-",
    "…": "...",
    "±": "+/-",
    "·": ".",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "≈": "~",
    "Δ": "Delta",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "«": '"',
    "»": '"',
    "\u00a0": " ",
    "\u202f": " ",
}
"""ASCII replacements of the symbols that the commands print."""
_HANDLER = "vlm-substitute"


def _substitute(error: UnicodeError) -> tuple[str, int]:
    """A codec error handler: a symbol becomes its ASCII replacement, any other character an escape."""
    assert isinstance(error, UnicodeEncodeError)
    characters = error.object[error.start : error.end]
    plain = (SUBSTITUTES.get(c) or c.encode("ascii", "backslashreplace").decode("ascii") for c in characters)
    return "".join(plain), error.end


def use_any_encoding() -> None:
    """Make stdout and stderr accept every character; those outside their encoding are written in ASCII."""
    codecs.register_error(_HANDLER, _substitute)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a replaced stream may lack it
        if reconfigure is not None:
            reconfigure(errors=_HANDLER)


def text(typed: str) -> str:
    """Typed text, with bytes that the locale could not decode (`LC_ALL=C`) decoded as UTF-8.

    Raises `UserError` if they are not UTF-8. Not for file names, whose encoding is the locale's.
    """
    try:
        return typed.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise UserError(f"{typed!a} is not UTF-8 text; set the terminal's encoding to UTF-8") from None
