"""Renders a conversation by the tokenizer's own chat template, as spans.

The Jinja template is rendered with marks in place of the turns' text. Text between the marks is the template author's:
control tokens are recognised in it. Text that replaces a mark is literal. A second rendering, with the real text,
checks that both renderings are the same conversation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from vlm_core.errors import BadSample, UserError
from vlm_core.interfaces import ChatTemplate, Tokenizer
from vlm_core.text.jinja_sandbox import TooMuchError, render_jinja
from vlm_core.text.messages import Message, Rendered, Span
from vlm_core.text.pattern_template import image_spans

NO_TEMPLATE = (
    "the tokenizer has no chat template; expected chat_template in tokenizer_config.json, or chat_template.jinja "
    "beside it. Choose a built-in template, or write one"
)


class Turn(NamedTuple):
    """One turn's text, with marks for its images, and the mark that replaces the text while rendering."""

    role: str
    text: str
    mark: str


class Marked(NamedTuple):
    """A rendering split at its marks: `author[i]` precedes the text of `turns[i]`, the last one follows all turns."""

    author: list[str]
    turns: list[Turn]


def _edge(texts: Sequence[str]) -> str:
    """A private-use character that is in no text; a mark is a number between two of them."""
    taken = set("".join(texts))
    return next(c for c in map(chr, (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))) if c not in taken)


class _Renderer:
    def __init__(self, chat: ChatTemplate, in_parts: bool) -> None:
        self.chat, self.in_parts = chat, in_parts

    def _content(self, text: str) -> Any:
        return [{"type": "text", "text": text}] if self.in_parts else text

    def __call__(self, turns: Sequence[Turn], *, marked: bool = True, prompt: bool = False) -> str:
        """The rendered text; `marked` puts marks in place of turns, `prompt` appends the beginning of an answer."""
        messages = [{"role": t.role, "content": self._content(t.mark if marked else t.text)} for t in turns]
        variables = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": prompt}
        return render_jinja(self.chat.source, {**self.chat.tokens, **variables})


def _cut(text: str, turns: Sequence[Turn]) -> Marked:
    """Raises `BadSample` for a template that leaves out or repeats a turn's text."""
    by_mark = {turn.mark: turn for turn in turns}
    parts = re.split("(" + "|".join(map(re.escape, by_mark)) + ")", text)
    turns_in_order = [by_mark[mark] for mark in parts[1::2]]
    for turn in turns:
        if turns_in_order.count(turn) != 1:
            fault = "leaves out" if turn not in turns_in_order else "repeats"
            raise BadSample(
                "template",
                f"the tokenizer's chat template {fault} the {turn.role} text; write your own template",
            )
    return Marked(parts[::2], turns_in_order)


def _as_written(marked: Marked, text: str) -> list[str]:
    """The text at each mark, as it is or stripped; raises `BadSample` if the template changes it otherwise."""
    at, written = len(marked.author[0]), []
    fits = text.startswith(marked.author[0])
    for turn, after in zip(marked.turns, marked.author[1:], strict=True):
        content = turn.text
        forms = (content, content.strip(), content.lstrip(), content.rstrip())
        form = next((form for form in forms if text.startswith(form + after, at)), None)
        if not fits or form is None:
            raise BadSample(
                "template",
                f"the tokenizer's chat template changes the {turn.role} text ({content!r:.60}); "
                "write your own template",
            )
        written.append(form)
        at += len(form) + len(after)
    if at != len(text):
        raise BadSample(
            "template", "the tokenizer's chat template adds text to turns; write your own template"
        )
    return written


def _end(author: str, tokenizer: Tokenizer) -> int | None:
    """The first control token of the author's text after an answer."""
    return next((part for part in tokenizer.split(author) if isinstance(part, int)), None)


def _turns(messages: Sequence[Message], system: str | None) -> tuple[list[Turn], str]:
    """Turns with numbered marks, and the mark of an image."""
    texts = [part for m in messages for part in m.parts if isinstance(part, str)] + [system or ""]
    edge = _edge(texts)
    image = f"{edge}i{edge}"
    texts_by_role = [("system", system)] if system is not None else []
    for message in messages:
        texts_by_role.append(
            (message.role, "".join(p if isinstance(p, str) else image for p in message.parts))
        )
    return [Turn(role, text, f"{edge}{i}{edge}") for i, (role, text) in enumerate(texts_by_role)], image


def render(
    template: Any, messages: Sequence[Message], tokenizer: Tokenizer, system: str | None = None
) -> Rendered:
    """Spans of a conversation; if it ends with a user's turn, the beginning of the answer follows.

    An answer's text, up to the control token after it, is the target. Raises `UserError` if the tokenizer has no
    template, and `BadSample` if the template can't render this conversation or changes its text.
    """
    if tokenizer.chat_template is None:
        raise UserError(NO_TEMPLATE)
    try:
        return _rendered(template, messages, tokenizer, system, _Renderer(tokenizer.chat_template, False))
    except TooMuchError as error:
        raise BadSample("template", str(error)) from None
    except UserError as error:
        try:  # some templates take only lists of parts
            return _rendered(template, messages, tokenizer, system, _Renderer(tokenizer.chat_template, True))
        except UserError:
            raise (error if isinstance(error, BadSample) else BadSample("template", str(error))) from None


def _rendered(
    template: Any,
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    system: str | None,
    renderer: _Renderer,
) -> Rendered:
    turns, image = _turns(messages, system)
    prompt = bool(turns) and turns[-1].role == "user"
    marked = _cut(renderer(turns, prompt=prompt), turns)
    written = _as_written(marked, renderer(turns, marked=False, prompt=prompt))
    return _Spans(template, tokenizer, renderer, turns, image).rendered(marked, written, prompt)


class _Spans:
    """The spans of one conversation."""

    def __init__(
        self, template: Any, tokenizer: Tokenizer, renderer: _Renderer, turns: Sequence[Turn], image: str
    ) -> None:
        self.template, self.tokenizer, self.renderer = template, tokenizer, renderer
        self.turns, self.image = turns, image
        self.spans: list[Span] = []
        self.rendering, self.rewrites = "", False

    def rendered(self, marked: Marked, written: Sequence[str], prompt: bool) -> Rendered:
        self.rendering = "".join(a + t.mark for a, t in zip(marked.author, marked.turns, strict=False))
        answered, answering = 0, False
        for author, turn, text in zip(marked.author, marked.turns, written, strict=False):
            head, opening = self._split_at_prompt(author, turn)
            self._author(head, closes=answering)
            self._author(opening, target=True)
            answering = turn.role == "assistant"
            self._turn_text(text, target=answering)
            answered = len(self.spans) if answering else answered
        self._author(marked.author[-1], closes=answering)
        return Rendered(self.spans, answered, self._end_of_turn() if prompt else None, self.rewrites)

    def _split_at_prompt(self, author: str, turn: Turn) -> tuple[str, str]:
        """The author's text before a turn: the prompt for an answer, and what follows the prompt, a target."""
        before = self.turns[: self.turns.index(turn)]
        if turn.role != "assistant" or not before:
            return author, ""
        asked = self.renderer(before, prompt=True)
        prompt = asked.rpartition(before[-1].mark)[2]
        opening = author.removeprefix(prompt) if author.startswith(prompt) else ""
        self.rewrites = not self.rendering.startswith(asked) or bool(opening.strip())
        return author.removesuffix(opening), opening

    def _author(self, text: str, target: bool = False, closes: bool = False) -> None:
        """Append the author's text; if it `closes` an answer, it is a target up to its first control token."""
        parts = self.tokenizer.split(text)
        last = next((i for i, part in enumerate(parts) if isinstance(part, int)), -1) if closes else -1
        self.spans += [Span(part, target or i <= last) for i, part in enumerate(parts)]

    def _turn_text(self, text: str, target: bool) -> None:
        for i, part in enumerate(text.split(self.image)):
            if i:
                self.spans += image_spans(self.template.image, self.tokenizer)
            self.spans.append(Span(part, target))

    def _end_of_turn(self) -> int | None:
        """The control token after an answer to this conversation."""
        answer = self.turns[0]._replace(role="assistant", mark=f"{self.image}{self.image}")
        return _end(self.renderer([*self.turns, answer]).rpartition(answer.mark)[2], self.tokenizer)
