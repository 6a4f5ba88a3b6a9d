"""What the objects of chat completions and of completions have in common."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, ClassVar

from vlm_serve.api.answers.answer import Answer
from vlm_serve.api.answers.running import RunningAnswers
from vlm_serve.api.guard.errors import RequestError
from vlm_serve.api.server import fingerprint, new_id
from vlm_serve.api.transport.sse import DONE, event
from vlm_serve.engine.request import Event, Finished, ModelFacts, Piece


class CompletionShape(ABC):
    """The object of one completion, and the chunks of its stream.

    `logprobs` says whether tokens are reported, `usage` whether a stream ends with the usage.
    """

    prefix: ClassVar[str]
    """Of ids."""
    kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    """`object` of the whole and of a chunk."""

    def __init__(self, facts: ModelFacts, *, logprobs: bool, usage: bool) -> None:
        self.logprobs, self.usage = logprobs, usage
        self._common = {
            "id": new_id(self.prefix),
            "created": int(time.time()),
            "model": facts.name,
            "system_fingerprint": fingerprint(facts),
        }

    @abstractmethod
    def choice(self, number: int, answer: Answer) -> dict[str, Any]:
        """The choice of a whole answer."""

    @abstractmethod
    def first(self, number: int) -> dict[str, Any] | None:
        """What a stream tells of an answer before its text."""

    @abstractmethod
    def changed(self, number: int, piece: Piece) -> dict[str, Any]:
        """The choice of a chunk with more text."""

    @abstractmethod
    def last(self, number: int, reason: str) -> dict[str, Any]:
        """The choice of an answer's last chunk."""

    def whole(self, running: RunningAnswers) -> dict[str, Any]:
        choices = [self.choice(number, answer) for number, answer in enumerate(running.answers)]
        usage = running.usage.completion_usage()
        return {**self._common, "object": self.kind, "choices": choices, "usage": usage}

    async def events(self, running: RunningAnswers) -> AsyncGenerator[bytes, None]:
        """A chunk for each change of an answer, then the usage if asked for; after an error nothing more."""
        try:
            for choice in filter(None, map(self.first, range(len(running.answers)))):
                yield self._chunk([choice])
            async with aclosing(running.events()) as events:
                async for number, each in events:
                    for choice in self._changes(number, each):
                        yield self._chunk([choice])
            if self.usage:
                yield self._chunk([], running.usage.completion_usage())
            yield DONE
        except RequestError as error:
            yield event(error.body())

    def _changes(self, number: int, each: Event) -> Iterator[dict[str, Any]]:
        """At most one choice; none for a piece that tells nothing."""
        if isinstance(each, Finished):
            yield self.last(number, each.reason)
        elif isinstance(each, Piece) and (each.text or (self.logprobs and each.logprobs)):
            yield self.changed(number, each)

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        more = {"usage": usage} if self.usage else {}
        return event({**self._common, "object": self.chunk_kind, "choices": choices, **more})
