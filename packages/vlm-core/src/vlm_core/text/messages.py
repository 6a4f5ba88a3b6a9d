"""A conversation before and after its template: messages of roles, and spans that become tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple


class ImageSlot:
    """Placeholder of an image in a message; images are taken in order."""

    def __repr__(self) -> str:
        return "IMAGE"


IMAGE = ImageSlot()
Part = str | ImageSlot


@dataclass(frozen=True)
class Message:
    """One turn: the role, and its text and images in order."""

    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]


class Span(NamedTuple):
    """A piece of a rendered conversation: literal text, the id of a control token, or an image."""

    content: str | int | ImageSlot
    target: bool = False


@dataclass(frozen=True)
class Rendered:
    """A conversation rendered by its template.

    The first `answered` spans end with the text of the last answer; 0 without an answer. `end` is the control token
    that ends an answer, None if the template has none. `rewrites` is true if the template renders the turns before the
    last answer otherwise than it did for the prompt of that answer.
    """

    spans: list[Span]
    answered: int
    end: int | None
    rewrites: bool = False


def without_images(messages: Sequence[Message]) -> list[Message]:
    """The messages with images and the newlines beside them taken out."""
    return [
        Message(m.role, ("".join(p for p in m.parts if isinstance(p, str)).strip("\n"),))
        if IMAGE in m.parts
        else m
        for m in messages
    ]
