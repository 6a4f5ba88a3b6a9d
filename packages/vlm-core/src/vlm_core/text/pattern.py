"""Parses the patterns of a template into typed pieces.

`{text}` is the text of a turn and `{image}` an image. `{eos}` and `{token:<|im_end|>}` are control tokens, looked up in
the tokenizer by their text. A brace is written `{{` or `}}`; everything else is literal.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from vlm_core.errors import UserError, choices

if TYPE_CHECKING:
    from vlm_core.interfaces import Tokenizer

FIELDS = ("eos", "image", "text", "token")


class Piece(NamedTuple):
    """`value` is the literal text, or the text of the control token."""

    kind: Literal["literal", "text", "image", "eos", "token"]
    value: str = ""

    @property
    def is_control(self) -> bool:
        return self.kind in ("eos", "token")


@lru_cache(maxsize=1024)
def parse(pattern: str) -> tuple[Piece, ...]:
    """The pieces of a pattern; raises `ValueError` for an invalid pattern."""
    return tuple(_pieces(pattern))


def _pieces(pattern: str) -> Iterator[Piece]:
    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise ValueError(f"not a pattern: {error}; a brace itself is written {{{{ or }}}}") from None
    literal = ""
    for text, name, value, conversion in parts:
        literal += text
        if name is None:
            continue
        if literal:
            yield Piece("literal", literal)
        literal = ""
        yield _field(name, value or "", conversion)
    if literal:
        yield Piece("literal", literal)


def _field(name: str, value: str, conversion: str | None) -> Piece:
    if name not in FIELDS:
        raise ValueError(f"unknown field {{{name}}}{choices(name, FIELDS)}")
    if conversion or (value and name != "token"):
        raise ValueError(f"{{{name}}} takes no format; write it as {{{name}}}")
    if name == "token" and not value:
        raise ValueError("{token} names no control token; expected a name, as in {token:<|im_start|>}")
    return Piece(name, value)  # pyright: ignore[reportArgumentType]


def has_text_field(pattern: str) -> bool:
    """Whether the pattern has `{text}`."""
    return any(piece.kind == "text" for piece in parse(pattern))


def ending(pattern: str) -> Piece | None:
    """The first control token after `{text}`, which ends the turn."""
    kinds = [piece.kind for piece in parse(pattern)]
    after = parse(pattern)[kinds.index("text") + 1 :] if "text" in kinds else ()
    return next((piece for piece in after if piece.is_control), None)


def control_id(piece: Piece, tokenizer: Tokenizer) -> int:
    """The id of a control token; raises `UserError` naming the nearest ones of the tokenizer."""
    if piece.kind == "eos":
        return tokenizer.eos_id
    if piece.value not in tokenizer.control_tokens:
        raise UserError(unknown_token(piece.value, tokenizer))
    return tokenizer.control_tokens[piece.value]


def unknown_token(name: str, tokenizer: Tokenizer) -> str:
    """The message for the name of a control token that the tokenizer doesn't have."""
    known = list(tokenizer.control_tokens)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known[:5]
    has = f"; the nearest of its {len(known)}: {', '.join(near)}" if near else "; it has none"
    return f"{name!r} is no control token of the tokenizer{has}"


def spelled_tokens(pattern: str, tokenizer: Tokenizer) -> list[str]:
    """Control tokens that the pattern spells as literal text, which is not tokenised as the token."""
    literals = [piece.value for piece in parse(pattern) if piece.kind == "literal"]
    names = [name for name in tokenizer.control_tokens if any(name in literal for literal in literals)]
    return [name for name in names if not any(name != other and name in other for other in names)]
