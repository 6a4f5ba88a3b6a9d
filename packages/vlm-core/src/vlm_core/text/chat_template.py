"""Renders a conversation by the tokenizer's own chat template, as spans.

The Jinja template is rendered with marks in place of what roles say. Between the marks is author's text, in which the
spelling of a control token is that token; what takes the place of a mark is literal text. A second rendering, of the
real words, proves that both are the same conversation.
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
    """A rendering cut at its marks: `author[i]` stands before the text of `turns[i]`, the last one after all."""

    author: list[str]
    turns: list[Turn]


def _edge(texts: Sequence[str]) -> str:
    """A private character that no text holds; marks are numbers between two of it."""
    taken = set("".join(texts))
    return next(c for c in map(chr, (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))) if c not in taken)


class _Renderer:
    def __init__(self, chat: ChatTemplate, in_parts: bool) -> None:
        self.chat, self.in_parts = chat, in_parts

    def _content(self, text: str) -> Any:
        return [{"type": "text", "text": text}] if self.in_parts else text

    def __call__(self, turns: Sequence[Turn], *, marked: bool = True, prompt: bool = False) -> str:
        """The text; `marked` has the marks in place of what is said, `prompt` the beginning of an answer at its end."""
        messages = [{"role": t.role, "content": self._content(t.mark if marked else t.text)} for t in turns]
        variables = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": prompt}
        return render_jinja(self.chat.source, {**self.chat.tokens, **variables})


def _cut(text: str, turns: Sequence[Turn]) -> Marked:
    """Raises `BadSample` for a template that leaves out or repeats what a role says."""
    by_mark = {turn.mark: turn for turn in turns}
    parts = re.split("(" + "|".join(map(re.escape, by_mark)) + ")", text)
    found = [by_mark[mark] for mark in parts[1::2]]
    for turn in turns:
        if found.count(turn) != 1:
            what = "leaves out" if turn not in found else "repeats"
            raise BadSample(
                "template",
                f"the tokenizer's chat template {what} what {turn.role} says; write a template of your own",
            )
    return Marked(parts[::2], found)


def _as_written(marked: Marked, text: str) -> list[str]:
    """What stands in `text` for each mark: the words as they are, or stripped; raises `BadSample` if neither fits."""
    at, written = len(marked.author[0]), []
    fits = text.startswith(marked.author[0])
    for turn, after in zip(marked.turns, marked.author[1:], strict=True):
        said = turn.text
        forms = (said, said.strip(), said.lstrip(), said.rstrip())
        form = next((form for form in forms if text.startswith(form + after, at)), None)
        if not fits or form is None:
            raise BadSample(
                "template",
                f"the tokenizer's chat template changes what {turn.role} says ({said!r:.60}); write a "
                "template of your own",
            )
        written.append(form)
        at += len(form) + len(after)
    if at != len(text):
        raise BadSample(
            "template", "the tokenizer's chat template adds to what is said; write one of your own"
        )
    return written


def _end(author: str, tokenizer: Tokenizer) -> int | None:
    """The first control token of what the author writes after an answer."""
    return next((part for part in tokenizer.split(author) if isinstance(part, int)), None)


def _turns(messages: Sequence[Message], system: str | None) -> tuple[list[Turn], str]:
    """Turns with numbered marks, and the mark of an image."""
    texts = [part for m in messages for part in m.parts if isinstance(part, str)] + [system or ""]
    edge = _edge(texts)
    image = f"{edge}i{edge}"
    said = [("system", system)] if system is not None else []
    for message in messages:
        said.append((message.role, "".join(p if isinstance(p, str) else image for p in message.parts)))
    return [Turn(role, text, f"{edge}{i}{edge}") for i, (role, text) in enumerate(said)], image


def render(
    template: Any, messages: Sequence[Message], tokenizer: Tokenizer, system: str | None = None
) -> Rendered:
    """Spans of a conversation; after a user's last turn comes the beginning of the answer.

    What follows that beginning up to the control token after the answer is the target. Raises `UserError` where the
    tokenizer has no template, and `BadSample` where it can't write this conversation or changes the words.
    """
    if tokenizer.chat_template is None:
        raise UserError(NO_TEMPLATE)
    try:
        return _rendered(template, messages, tokenizer, system, _Renderer(tokenizer.chat_template, False))
    except TooMuchError as error:
        raise BadSample("template", str(error)) from None
    except UserError as error:
        try:  # some templates take nothing but lists of parts
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
        self.whole, self.rewrites = "", False

    def rendered(self, marked: Marked, written: Sequence[str], prompt: bool) -> Rendered:
        self.whole = "".join(a + t.mark for a, t in zip(marked.author, marked.turns, strict=False))
        answered, answering = 0, False
        for author, turn, text in zip(marked.author, marked.turns, written, strict=False):
            head, opening = self._opened(author, turn)
            self._author(head, closes=answering)
            self._author(opening, target=True)
            answering = turn.role == "assistant"
            self._said(text, target=answering)
            answered = len(self.spans) if answering else answered
        self._author(marked.author[-1], closes=answering)
        return Rendered(self.spans, answered, self._end_of_turn() if prompt else None, self.rewrites)

    def _opened(self, author: str, turn: Turn) -> tuple[str, str]:
        """What stands before a turn, divided where the prompt for an answer ends; what follows it is to be learnt."""
        before = self.turns[: self.turns.index(turn)]
        if turn.role != "assistant" or not before:
            return author, ""
        asked = self.renderer(before, prompt=True)
        prompt = asked.rpartition(before[-1].mark)[2]
        opening = author.removeprefix(prompt) if author.startswith(prompt) else ""
        self.rewrites = not self.whole.startswith(asked) or bool(opening.strip())
        return author.removesuffix(opening), opening

    def _author(self, text: str, target: bool = False, closes: bool = False) -> None:
        """Author's text; if it `closes` an answer, up to its first control token it is a target, too."""
        parts = self.tokenizer.split(text)
        last = next((i for i, part in enumerate(parts) if isinstance(part, int)), -1) if closes else -1
        self.spans += [Span(part, target or i <= last) for i, part in enumerate(parts)]

    def _said(self, text: str, target: bool) -> None:
        for i, part in enumerate(text.split(self.image)):
            if i:
                self.spans += image_spans(self.template.image, self.tokenizer)
            self.spans.append(Span(part, target))

    def _end_of_turn(self) -> int | None:
        """The control token after an answer to this conversation."""
        answer = self.turns[0]._replace(role="assistant", mark=f"{self.image}{self.image}")
        return _end(self.renderer([*self.turns, answer]).rpartition(answer.mark)[2], self.tokenizer)
