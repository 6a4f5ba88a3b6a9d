"""A moment of a stream: the state after some frames, and answers to questions about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from vlm_core.generation.sampling import GREEDY, GenerationConfig
from vlm_core.generation.text_stream import stream_text
from vlm_core.generation.watch.prompt import WatchPrompt
from vlm_core.interfaces import State
from vlm_core.model import VLM
from vlm_core.text.render import TokenizedConversation


class StreamSession(Protocol):
    """What watching needs of `vlm_core.generation.generate.Session`, which imports this module."""

    model: VLM

    @property
    def state(self) -> State | None: ...
    def fork(self) -> StreamSession: ...
    def expand(self, n: int) -> StreamSession: ...
    def append_embeds(self, x: Tensor) -> None: ...
    def prefill(self, samples: Sequence[TokenizedConversation]) -> None: ...
    def tokens(self, decoding: GenerationConfig = GREEDY) -> Iterator[list[int | None]]: ...
    def generate(self, decoding: GenerationConfig = GREEDY) -> list[str]: ...


class Fork:
    """The state after `frames` frames, the last one at `time` seconds (None: no frame yet).

    Questions are answered from copies: they influence neither one another nor the watcher. An answer equals that to
    the prompt of all frames and the question at once.
    """

    def __init__(self, session: StreamSession, prompt: WatchPrompt, frames: int, time: float | None) -> None:
        self._session, self._prompt = session, prompt
        self.frames, self.time = frames, time

    @property
    def state(self) -> State | None:
        """The state after the frames; None before the first one."""
        return self._session.state

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""
        return 0 if self.state is None else self.state.nbytes

    def ask(self, question: str, decoding: GenerationConfig = GREEDY) -> Iterator[str]:
        """Yield the answer as it is generated, as `Conversation.ask`."""
        session = self._asked([question])
        ids = (ids[0] for ids in session.tokens(decoding))
        return stream_text(session.model.llm.tokenizer, (i for i in ids if i is not None))

    def answers(self, questions: Sequence[str], decoding: GenerationConfig = GREEDY) -> list[str]:
        """The answers to several questions, generated as one batch where the model allows padding in between."""
        if not self._session.model.llm.pads_between and self.frames:
            return [text for q in questions for text in self._asked([q]).generate(decoding)]
        return self._asked(questions).generate(decoding) if questions else []

    def _asked(self, questions: Sequence[str]) -> StreamSession:
        """A session that has read each question after the frames."""
        if not self.frames:
            session = self._session.fork()
            session.prefill([self._prompt.whole(question, []) for question in questions])
            return session
        count = len(questions)
        session = self._session.fork() if count == 1 else self._session.expand(count)
        session.prefill([self._prompt.after(question) for question in questions])
        return session
