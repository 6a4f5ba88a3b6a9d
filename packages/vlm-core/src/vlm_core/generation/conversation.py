"""A conversation with a model: each turn is fed once, and what was said before lives in the state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from vlm_core.generation.generate import GREEDY, GenerationConfig, Session
from vlm_core.io.images import load_image
from vlm_core.model import VLM
from vlm_core.text.render import IMAGE, Message, Part, TokenizedConversation, render
from vlm_core.text.template import AnyTemplate


class Conversation:
    """Questions, images and answers in turn."""

    def __init__(self, model: VLM, template: AnyTemplate) -> None:
        self.model, self.template = model, template
        self.reset()

    def reset(self) -> None:
        """Forget everything, images waiting for a question included."""
        self.session, self.images = Session(self.model), []
        self.messages: list[Message] = []
        self.pending_tokens: list[int] = []  # the last token of an answer that was cut short

    def show(self, path: str | Path) -> None:
        """The next question is about this image, too."""
        self.images.append(self.model.encoder.transform(load_image(path)))

    def ask(self, question: str, decoding: GenerationConfig = GREEDY) -> Iterator[str]:
        """Yield the answer piece by piece as it is generated: one piece a token, empty while a character is incomplete.

        What the question spells is text, always. An answer that the caller leaves early (`close`, `break`) is
        remembered as far as it went.
        """
        message = self._message(question, self.images)
        prompt = self._prompt(message, self.images)
        self.session.prefill([prompt], self.images)
        self.images = []
        answer_ids: list[int] = []
        try:
            yield from self._generate(answer_ids, decoding)
        finally:  # also where whoever listens has heard enough
            text = self.model.llm.tokenizer.decode(answer_ids).lstrip()
            self.messages += [message, Message("assistant", (text,))]
            self._remember(answer_ids, prompt.end)

    def _generate(self, answer_ids: list[int], decoding: GenerationConfig) -> Iterator[str]:
        """The answer piece by piece; its ids go to `answer_ids`."""
        shown, text = "", ""
        for (token,) in self.session.tokens(decoding):
            assert token is not None
            answer_ids.append(token)
            text = self.model.llm.tokenizer.decode(answer_ids).lstrip()
            # a character may need more than one token: hold back what can't be read yet
            readable = text.startswith(shown) and not text.endswith("\ufffd")
            piece = text[len(shown) :] if readable else ""
            shown += piece
            yield piece
        if len(text) > len(shown):  # a character that was never completed
            yield text[len(shown) :]

    @staticmethod
    def _message(question: str, images: list[Tensor]) -> Message:
        parts: list[Part] = [part for _ in images for part in (IMAGE, "\n")]
        return Message("user", (*parts, question))

    def _prompt(self, message: Message, images: list[Tensor]) -> TokenizedConversation:
        """What the model has not read yet: the end of the last answer, and the question."""
        counts = [self.model.image_tokens(image) for image in images]
        prompt = TokenizedConversation()
        prompt.append_text(self.pending_tokens, False)
        messages, tokenizer = [*self.messages, message], self.model.llm.tokenizer
        prompt.extend(render(self.template, messages, tokenizer, counts, resume=bool(self.messages)))
        return prompt

    def _remember(self, answer_ids: list[int], end: int | None) -> None:
        """Keep the last token, which the session has not read, unless the template writes it as the answer's end."""
        ended = end is not None and answer_ids[-1:] in ([end], [self.model.llm.tokenizer.eos_id])
        self.pending_tokens = [] if ended else answer_ids[-1:]
