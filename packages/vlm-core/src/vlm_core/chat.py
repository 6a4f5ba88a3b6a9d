"""Writes conversations as tokens, each with its flags: is it an image position, is it a target.

Ids and flags are written side by side, so a label mask cannot disagree with the tokens: nothing is tokenised
twice, counted or searched for. Text is literal; control ids come only from the template's `{eos}` and the
tokenizer's BOS.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from vlm_core.errors import UserError
from vlm_core.interfaces import Tokenizer

if TYPE_CHECKING:
    from vlm_core.template import Template


class ImageSlot:
    """Stands where an image goes in a message; images are taken in order."""

    def __repr__(self) -> str:
        return "IMAGE"


IMAGE = ImageSlot()
Part = str | ImageSlot


@dataclass(frozen=True)
class Message:
    """What one role says: text and images in order."""

    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]


class TooLong(ValueError):
    """A sample that cannot be shortened without cutting an image or losing every target."""


@dataclass
class Sample:
    """A token sequence. Image positions hold id 0, which is never embedded."""

    ids: list[int] = field(default_factory=list)
    is_image: list[bool] = field(default_factory=list)
    is_target: list[bool] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def text(self, ids: Sequence[int], target: bool) -> None:
        self.ids += ids
        self.is_image += [False] * len(ids)
        self.is_target += [target] * len(ids)

    def image(self, tokens: int) -> None:
        self.ids += [0] * tokens
        self.is_image += [True] * tokens
        self.is_target += [False] * tokens

    def extend(self, other: Sample) -> None:
        """Append another piece of the same conversation."""
        self.ids += other.ids
        self.is_image += other.is_image
        self.is_target += other.is_target

    def truncated(self, length: int) -> Sample:
        """The first `length` positions; raises `TooLong` if that cuts an image or leaves no target."""
        if len(self) <= length:
            return self
        if any(self.is_image[length:]):
            raise TooLong(f"{len(self)} tokens, at most {length}: shortening it would cut an image")
        if not any(self.is_target[:length]):
            raise TooLong(f"{len(self)} tokens, at most {length}: no answer would be left")
        return Sample(self.ids[:length], self.is_image[:length], self.is_target[:length])


class _Writer:
    """Collects adjacent text of one kind before tokenising it, so that words keep their natural tokens."""

    def __init__(self, tokenizer: Tokenizer, image_tokens: Sequence[int]) -> None:
        self.tokenizer, self.image_tokens = tokenizer, list(image_tokens)
        self.sample, self.pending, self.target, self.images = Sample(), "", False, 0

    def flush(self) -> None:
        if self.pending:
            self.sample.text(self.tokenizer.encode(self.pending), self.target)
        self.pending = ""

    def say(self, text: str, target: bool) -> None:
        if target != self.target:
            self.flush()
        self.pending, self.target = self.pending + text, target

    def eos(self, target: bool) -> None:
        self.flush()
        self.sample.text([self.tokenizer.eos_id], target)

    def image(self) -> None:
        self.flush()
        self.images += 1
        if self.images <= len(self.image_tokens):
            self.sample.image(self.image_tokens[self.images - 1])

    def pattern(self, pattern: str, parts: Sequence[Part], target: bool = False) -> None:
        """Write a pattern; without a `{text}` only the images among `parts` are written."""
        pieces = list(string.Formatter().parse(pattern))
        if all(name != "text" for _, name, _, _ in pieces):
            parts = [part for part in parts if part is IMAGE]
            pieces.append(("", "text", None, None))
        for literal, name, _, _ in pieces:
            self.say(literal, target)
            if name == "eos":
                self.eos(target)
                target = False
            elif name == "text":
                for part in parts:
                    self.say(part, target) if isinstance(part, str) else self.image()


def _images_first(messages: Sequence[Message]) -> tuple[int, list[Message]]:
    """The number of images, and the messages with images and the newlines beside them taken out."""
    stripped = [
        Message(m.role, ("".join(p for p in m.parts if isinstance(p, str)).strip("\n"),))
        if IMAGE in m.parts
        else m
        for m in messages
    ]
    return sum(m.parts.count(IMAGE) for m in messages), stripped


def write(
    template: Template,
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    image_tokens: Sequence[int] = (),
    *,
    start: bool = True,
    lead: str = "",
    system: str | None = None,
    loss_on: Literal["answers", "all"] = "answers",
) -> Sample:
    """The conversation as one `Sample`.

    `image_tokens[i]` is the number of positions of image i. A conversation that ends with the user gets the
    assistant's prompt appended, ready for generation. `start=False` continues an earlier sample: no BOS, no
    system text, but `lead`, the text that the piece before still owed. `system` is this conversation's system text in
    place of the template's. `loss_on="all"` makes every text position
    a target (language pretraining). Raises `UserError` when messages and images don't match in number.
    """
    writer = _Writer(tokenizer, image_tokens)
    if start and tokenizer.bos_id is not None:
        writer.sample.text([tokenizer.bos_id], False)
    if template.images == "first":
        count, messages = _images_first(messages)
        for _ in range(count):
            writer.image()
    if start and system is not None:
        writer.say(system, False)
    else:
        writer.pattern(template.system, ()) if start else writer.say(lead, False)
    for message in messages:
        if message.role == "user":
            writer.pattern(template.user, message.parts)
            writer.pattern(template.assistant_prompt, ())
        else:
            writer.pattern(template.assistant, message.parts, target=True)
    writer.flush()
    if writer.images != len(image_tokens):
        raise UserError(f"the conversation has {writer.images} image slots but {len(image_tokens)} images")
    if loss_on == "all":
        writer.sample.is_target = [not image for image in writer.sample.is_image]
    return writer.sample
