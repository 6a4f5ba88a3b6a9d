"""Renders a conversation as spans by a pattern template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vlm_core.errors import BadSample
from vlm_core.interfaces import Tokenizer
from vlm_core.text.messages import IMAGE, Message, Part, Rendered, Span
from vlm_core.text.pattern import Piece, control_id, ending, has_text_field, parse


def image_spans(image: str, tokenizer: Tokenizer) -> Iterator[Span]:
    """An image, with the text and tokens of the template's `image` pattern around it."""
    for piece in parse(image):
        if piece.kind == "image":
            yield Span(IMAGE)
        else:
            yield Span(control_id(piece, tokenizer) if piece.is_control else piece.value)


def system_of(template: Any, system: str | None) -> tuple[str, str | None]:
    """The system pattern and its text; `system`, the conversation's own, replaces the template's.

    A pattern of plain text is replaced as a whole. Raises `BadSample` if the template has no place for it.
    """
    if system is None or has_text_field(template.system):
        text = template.system_text if system is None else system
        return ("" if text is None and has_text_field(template.system) else template.system), text
    if [piece.kind for piece in parse(template.system)] != ["literal"]:
        raise BadSample(
            "system",
            "the conversation has a system prompt of its own, but the template has no place for it: its `system` "
            "needs {text}",
        )
    return "{text}", system


class _Turns:
    def __init__(self, template: Any, tokenizer: Tokenizer) -> None:
        self.template, self.tokenizer = template, tokenizer
        self.spans: list[Span] = []
        self.answered = 0

    def pattern(self, pattern: str, parts: Sequence[Part] = (), answer: bool = False) -> None:
        """Append a pattern; without `{text}`, only the images of `parts` are appended."""
        pieces = parse(pattern)
        if not has_text_field(pattern):
            parts = [part for part in parts if part is IMAGE]
            pieces = (*pieces, Piece("text"))
        target, text_written = answer, False
        for piece in pieces:
            if piece.kind == "text":
                self._parts(parts, target)
                text_written = True
                self.answered = len(self.spans) if answer else self.answered
                continue
            control = piece.is_control
            self.spans.append(Span(control_id(piece, self.tokenizer) if control else piece.value, target))
            target = target and not (control and text_written)

    def _parts(self, parts: Sequence[Part], target: bool) -> None:
        for part in parts:
            if isinstance(part, str):
                self.spans.append(Span(part, target))
            else:
                self.spans += image_spans(self.template.image, self.tokenizer)


def render(
    template: Any, messages: Sequence[Message], tokenizer: Tokenizer, system: str | None = None
) -> Rendered:
    """Spans of a conversation, BOS first; if it ends with a user's turn, the beginning of the answer follows."""
    turns = _Turns(template, tokenizer)
    pattern, text = system_of(template, system)
    turns.pattern(pattern, (text or "",))
    if tokenizer.bos_id is not None and turns.spans[:1] != [Span(tokenizer.bos_id)]:
        turns.spans.insert(0, Span(tokenizer.bos_id))
    for message in messages:
        if message.role == "user":
            turns.pattern(template.user, message.parts)
            turns.pattern(template.assistant_prompt)
        else:
            turns.pattern(template.assistant, message.parts, answer=True)
    end = ending(template.assistant)
    return Rendered(turns.spans, turns.answered, end and control_id(end, tokenizer))
