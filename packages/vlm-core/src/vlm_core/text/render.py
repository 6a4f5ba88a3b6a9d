"""Renders conversations as token ids with an image mask and a loss mask.

Ids and masks are appended together, so the loss mask always matches the tokens; nothing is searched for in the result.
Control ids are those of the template and the tokenizer's BOS; the text of turns is literal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from vlm_core.errors import UserError
from vlm_core.interfaces import Tokenizer
from vlm_core.text import chat_template, pattern_template
from vlm_core.text.messages import IMAGE, ImageSlot, Message, Part, Rendered, Span, without_images
from vlm_core.text.pattern import has_text_field

if TYPE_CHECKING:
    from vlm_core.text.template import AnyTemplate

__all__ = [
    "IMAGE",
    "ImageSlot",
    "Message",
    "Part",
    "TokenizedConversation",
    "TooLong",
    "end_of_answer",
    "has_question",
    "render",
    "render_spans",
    "require_question",
]


class TooLong(ValueError):
    """A sample that cannot be shortened without cutting an image or losing every target."""


@dataclass
class TokenizedConversation:
    """Token ids with their masks. Image positions hold id 0, which is never embedded; `loss_mask` marks targets.

    `end` is the control token, besides the tokenizer's EOS, that ends the answer to a prompt.
    """

    input_ids: list[int] = field(default_factory=list)
    image_mask: list[bool] = field(default_factory=list)
    loss_mask: list[bool] = field(default_factory=list)
    end: int | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    def append_text(self, ids: Sequence[int], target: bool) -> None:
        self.input_ids += ids
        self.image_mask += [False] * len(ids)
        self.loss_mask += [target] * len(ids)

    def append_image(self, tokens: int) -> None:
        self.input_ids += [0] * tokens
        self.image_mask += [True] * tokens
        self.loss_mask += [False] * tokens

    def extend(self, other: TokenizedConversation) -> None:
        """Append another piece of the same conversation."""
        self.input_ids += other.input_ids
        self.image_mask += other.image_mask
        self.loss_mask += other.loss_mask
        self.end = other.end

    def part(self, start: int, stop: int | None = None) -> TokenizedConversation:
        """Positions `start` to `stop`, exclusive."""
        at = slice(start, stop)
        return TokenizedConversation(self.input_ids[at], self.image_mask[at], self.loss_mask[at], self.end)

    def truncated(self, length: int) -> TokenizedConversation:
        """The first `length` positions; raises `TooLong` if that cuts an image or leaves no target."""
        if len(self) <= length:
            return self
        if any(self.image_mask[length:]):
            raise TooLong(f"{len(self)} tokens, at most {length}: shortening it would cut an image")
        if not any(self.loss_mask[:length]):
            raise TooLong(f"{len(self)} tokens, at most {length}: no answer would be left")
        return self.part(0, length)


class _Renderer:
    """Tokenises all text between two control tokens or images at once, so that no word is split at a span."""

    def __init__(self, tokenizer: Tokenizer, image_tokens: Sequence[int]) -> None:
        self.tokenizer, self.image_tokens = tokenizer, list(image_tokens)
        self.sample, self.images = TokenizedConversation(), 0
        self.pending: list[tuple[str, bool]] = []

    def add(self, span: Span) -> None:
        content, target = span
        if isinstance(content, str):
            self._text(content, target)
            return
        self.flush()
        if isinstance(content, int):
            self.sample.append_text([content], target)
            return
        self.images += 1
        if self.images <= len(self.image_tokens):
            self.sample.append_image(self.image_tokens[self.images - 1])

    def _text(self, text: str, target: bool) -> None:
        if self.pending and self.pending[-1][1] == target:
            text = self.pending.pop()[0] + text
        if text:
            self.pending.append((text, target))

    def flush(self) -> None:
        """Tokenise prompt and answer as one text, as libraries do, unless that changes the prompt's tokens.

        The prompt has no answer at generation, and must have the same tokens there.
        """
        before, ids = "", []
        for text, target in self.pending:
            ids_of_both = self.tokenizer.encode(before + text)
            if ids_of_both[: len(ids)] != ids:
                before, ids, ids_of_both = "", [], self.tokenizer.encode(text)
            self.sample.append_text(ids_of_both[len(ids) :], target)
            before, ids = before + text, ids_of_both
        self.pending = []


def render_spans(
    template: AnyTemplate, messages: Sequence[Message], tokenizer: Tokenizer, system: str | None = None
) -> Rendered:
    """The conversation as spans of text, control tokens and images."""
    kind: Any = chat_template if hasattr(template, "chat_template") else pattern_template
    return kind.render(template, messages, tokenizer, system)


def require_question(template: AnyTemplate) -> None:
    """Raise `UserError` if the template leaves out questions: the model would answer without reading them."""
    if not has_question(template):
        raise UserError(
            "the template leaves out the question: its `user` has no {text}; `plain` is for captions"
        )


def end_of_answer(template: AnyTemplate, tokenizer: Tokenizer) -> int | None:
    """The control token that the template writes after an answer."""
    return render_spans(template, [Message("user", ("a",))], tokenizer).end


def has_question(template: AnyTemplate) -> bool:
    """Whether the template writes the text of a user's turn."""
    return hasattr(template, "chat_template") or has_text_field(getattr(template, "user", ""))


def render(
    template: AnyTemplate,
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    image_tokens: Sequence[int] = (),
    *,
    system: str | None = None,
    resume: bool = False,
    loss_on: Literal["answers", "all"] = "answers",
) -> TokenizedConversation:
    """The conversation as one `TokenizedConversation`.

    `image_tokens[i]` is the number of positions of image i. A conversation that ends with the user gets the
    beginning of the answer appended, ready for generation. `system` is this conversation's system prompt, which
    replaces the template's. `resume` leaves out everything up to the text of the last answer, which is in the model's
    state already; `image_tokens` are then those of the images after it. `loss_on="all"` makes every text position a
    target (language pretraining).

    Raises `UserError` if the numbers of image slots and images differ or the template leaves out the question, and
    `BadSample` for a conversation that the template cannot render.
    """
    asks = bool(messages) and messages[-1].role == "user"
    if asks and any(isinstance(p, str) and p.strip() for m in messages if m.role == "user" for p in m.parts):
        require_question(template)
    first = template.images == "first"
    rendered = render_spans(template, without_images(messages) if first else messages, tokenizer, system)
    if resume and rendered.rewrites:
        raise UserError(
            "the tokenizer's chat template rewrites earlier turns when a turn is added; begin a new conversation "
            "for each question, or write your own template"
        )
    spans = rendered.spans[rendered.answered :] if resume else rendered.spans
    if first:
        spans = _images_first(template, messages, tokenizer, spans, resume)
    renderer = _Renderer(tokenizer, image_tokens)
    for span in spans:
        renderer.add(span)
    renderer.flush()
    if renderer.images != len(image_tokens):
        raise UserError(f"the conversation has {renderer.images} image slots but {len(image_tokens)} images")
    sample = renderer.sample
    if loss_on == "all":
        sample.loss_mask = [not image for image in sample.image_mask]
    sample.end = rendered.end if asks else None
    return sample


def _images_first(
    template: Any, messages: Sequence[Message], tokenizer: Tokenizer, spans: Sequence[Span], resume: bool
) -> list[Span]:
    """The spans with all images after BOS or, with `resume`, after the end of the last answer."""
    answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
    new = messages[answers[-1] + 1 :] if resume and answers else messages
    images = [
        s
        for m in new
        for p in m.parts
        if p is IMAGE
        for s in pattern_template.image_spans(template.image, tokenizer)
    ]
    if resume:
        at = next((i + 1 for i, span in enumerate(spans) if isinstance(span.content, int)), 0)
    else:
        at = _after_bos(spans, tokenizer)
    return [*spans[:at], *images, *spans[at:]]


def _after_bos(spans: Sequence[Span], tokenizer: Tokenizer) -> int:
    """1 if the first span is BOS, which some chat templates write themselves; a token before every turn is not."""
    chat = tokenizer.chat_template
    named = tokenizer.control_tokens.get(chat.tokens.get("bos_token", "")) if chat else None
    controls = [span.content for span in spans if isinstance(span.content, int)]
    first = spans[0].content if spans else None
    return int(first is not None and first in (tokenizer.bos_id, named) and controls.count(first) == 1)  # pyright: ignore[reportArgumentType]
