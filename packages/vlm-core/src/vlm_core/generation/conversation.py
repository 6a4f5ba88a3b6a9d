"""A conversation with a model: each turn is processed once; the model's state holds the earlier turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vlm_core.errors import UserError
from vlm_core.generation.generate import Session
from vlm_core.generation.prefix_reader import PrefixReader
from vlm_core.generation.read_history import ReadHistory
from vlm_core.generation.sampling import GREEDY, GenerationConfig
from vlm_core.generation.session_file import load_session, save_session
from vlm_core.generation.text_stream import stream_text
from vlm_core.io.images import load_image
from vlm_core.io.video.sources import VideoSource
from vlm_core.model import VLM
from vlm_core.states.cache import StateCache
from vlm_core.states.manifest import SavedConversation, SavedMessage
from vlm_core.text.render import IMAGE, Message, Part, TokenizedConversation, render
from vlm_core.text.template import AnyTemplate
from vlm_core.views.image_views import ImageInput


class Conversation:
    """A conversation of questions, images and answers with one model.

    With a cache, a prompt continues from the longest state in it; the answers are the same without.
    """

    def __init__(self, model: VLM, template: AnyTemplate, cache: StateCache | None = None) -> None:
        self.model, self.template = model, template
        self.reader = PrefixReader(model, template, cache)
        self.reset()

    def reset(self) -> None:
        """Start a new conversation; images added for the next question are dropped."""
        self.session, self.history = Session(self.model), ReadHistory()
        self.images: list[ImageInput] = []
        self.messages: list[Message] = []
        self.pending_tokens: list[int] = []  # generated, but not yet processed by the model

    def show(self, path: str | Path) -> None:
        """Add an image to the next question; raises `BadSample` for a file that is not a usable image."""
        self.images.append(self.model.image_processor(load_image(path)))

    def show_video(self, path: str | Path) -> None:
        """Add a video to the next question, sampled as the spec says; raises `BadSample` for a file that is none."""
        self.images.append(self.model.video_processor(VideoSource(path)))

    def save(self, path: str | Path) -> None:
        """Write the conversation to a file, from which `load` continues it exactly.

        Raises `UserError` before the first question, and as `save_session`.
        """
        if self.session.state is None:
            raise UserError("nothing to save: no question was asked yet")
        saved = SavedConversation(
            messages=list(map(SavedMessage.of, self.messages)), pending_tokens=self.pending_tokens
        )
        save_session(self.session, path, self.template, self.history, saved, self.images)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: VLM,
        template: AnyTemplate,
        cache: StateCache | None = None,
        *,
        convert: bool = False,
    ) -> Conversation:
        """The conversation of a file of `save`; raises `UserError` as `load_session`, which explains `convert`."""
        loaded = load_session(path, model, template, convert=convert)
        if loaded.sequences != 1 or not loaded.conversation.messages:
            raise UserError(
                f"{path}: the state of a session, not of a conversation; read it with load_session"
            )
        conversation = cls(model, template, cache)
        conversation.session, conversation.history = loaded.session, loaded.history
        conversation.images = loaded.images
        conversation.messages = [message.message() for message in loaded.conversation.messages]
        conversation.pending_tokens = list(loaded.conversation.pending_tokens)
        return conversation

    def ask(self, question: str, decoding: GenerationConfig = GREEDY) -> Iterator[str]:
        """Yield the answer as it is generated: one piece per token, empty while a character is incomplete.

        The question is literal text: control tokens that it spells stay text. If the caller stops early (`close`,
        `break`), the conversation continues after the part generated so far.
        """
        message = self._message(question, self.images)
        prompt = self._prompt(message, self.images)
        self.history = self.reader.read(self.session, prompt, self.images, self.history)
        self.images = []
        answer_ids: list[int] = []
        try:
            yield from self._generate(answer_ids, decoding)
        finally:  # also if the caller stops early
            text = self.model.llm.tokenizer.decode(answer_ids).lstrip()
            self.messages += [message, Message("assistant", (text,))]
            self._remember(answer_ids, prompt.end)
            self.history = self.history.decoded(answer_ids[:-1])

    def _generate(self, answer_ids: list[int], decoding: GenerationConfig) -> Iterator[str]:
        """Yield the pieces of the answer and append its ids to `answer_ids`."""

        def ids() -> Iterator[int]:
            for (token,) in self.session.tokens(decoding):
                assert token is not None
                answer_ids.append(token)
                yield token

        yield from stream_text(self.model.llm.tokenizer, ids())

    @staticmethod
    def _message(question: str, images: Sequence[ImageInput]) -> Message:
        parts: list[Part] = [part for _ in images for part in (IMAGE, "\n")]
        return Message("user", (*parts, question))

    def _prompt(self, message: Message, images: Sequence[ImageInput]) -> TokenizedConversation:
        """The tokens that the model has not processed yet: the end of the last answer, and the question."""
        counts = [self.model.image_tokens(image) for image in images]
        prompt = TokenizedConversation()
        prompt.append_text(self.pending_tokens, False)
        messages, tokenizer = [*self.messages, message], self.model.llm.tokenizer
        prompt.extend(render(self.template, messages, tokenizer, counts, resume=bool(self.messages)))
        return prompt

    def _remember(self, answer_ids: list[int], end: int | None) -> None:
        """Keep the last token, which the session has not processed, unless the template writes it after the answer."""
        ended = end is not None and answer_ids[-1:] in ([end], [self.model.llm.tokenizer.eos_id])
        self.pending_tokens = [] if ended else answer_ids[-1:]
