"""A conversation with a model: each turn is fed once, and what was said before lives in the state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from vlm_core.chat import IMAGE, Message, Part, Sample, write
from vlm_core.generate import GREEDY, Decoding, Session
from vlm_core.images import load_image
from vlm_core.model import VLM
from vlm_core.template import Template


class Conversation:
    """Questions, images and answers in turn."""

    def __init__(self, model: VLM, template: Template) -> None:
        self.model, self.template = model, template
        self.reset()

    def reset(self) -> None:
        """Forget everything, images waiting for a question included."""
        self.session, self.images = Session(self.model), []
        self.unread, self.lead, self.started = Sample(), "", False

    def show(self, path: str | Path) -> None:
        """The next question is about this image, too."""
        self.images.append(self.model.encoder.transform(load_image(path)))

    def ask(self, question: str, decoding: Decoding = GREEDY) -> Iterator[str]:
        """Yield the answer piece by piece as it is generated: one piece a token, empty while a character is incomplete.

        What the question spells is text, always. An answer that the caller leaves early (`close`, `break`) is
        remembered as far as it went.
        """
        tokens = self.model.llm.tokenizer
        self.session.feed([self._prompt(question, self.images)], self.images)
        self.images, said, shown, text = [], [], "", ""
        try:
            for (token,) in self.session.tokens(decoding):
                assert token is not None
                said.append(token)
                text = tokens.decode(said).lstrip()
                # a character may need more than one token: hold back what can't be read yet
                readable = text.startswith(shown) and not text.endswith("\ufffd")
                piece = text[len(shown) :] if readable else ""
                shown += piece
                yield piece
            if len(text) > len(shown):  # a character that was never completed
                yield text[len(shown) :]
        finally:
            if said:
                self._remember(said)

    def _prompt(self, question: str, images: list[Tensor]) -> Sample:
        parts: list[Part] = [part for _ in images for part in (IMAGE, "\n")]
        message = Message("user", (*parts, question))
        counts = [self.model.image_tokens(image) for image in images]
        turn = write(
            self.template,
            [message],
            self.model.llm.tokenizer,
            counts,
            start=not self.started,
            lead=self.lead,
        )
        self.started = True
        self.unread.extend(turn)
        return self.unread

    def _remember(self, said: list[int]) -> None:
        """The session has read all but the last token said; an answer cut short is closed as if it ended."""
        eos, pattern = self.model.llm.tokenizer.eos_id, self.template.assistant
        closed = said[-1] == eos or "{eos}" not in pattern
        self.unread, self.lead = Sample(), pattern.rpartition("{eos}")[2] if "{eos}" in pattern else ""
        self.unread.text(said[-1:] if closed else [said[-1], eos], False)
