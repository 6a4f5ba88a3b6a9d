"""The answers to one body while they are computed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from vlm_serve.api.answers.answer import Answer, Usage
from vlm_serve.api.answers.events import Numbered, numbered
from vlm_serve.api.errors import failure
from vlm_serve.api.metrics import AnswerTimes, Metrics
from vlm_serve.engine.request import Engine, Failed, GenerationRequest


class RunningAnswers:
    """Runs the requests of one body, adds up their events, and measures them.

    Every `per_prompt` adjacent requests have the same prompt. `places` are those of its images in the body, `fields`
    those of the prompt and the grammar.
    """

    def __init__(
        self,
        engine: Engine,
        requests: Sequence[GenerationRequest],
        metrics: Metrics,
        *,
        per_prompt: int = 1,
        fields: Mapping[str, str],
        places: Sequence[str] = (),
    ) -> None:
        self.answers = [Answer() for _ in requests]
        self._times = [AnswerTimes(metrics) for _ in requests]
        self._per_prompt, self._fields, self._places = per_prompt, fields, places
        self._events = numbered(engine, requests)
        self._first: Numbered | None = None

    async def start(self) -> None:
        """Wait for the first event, so that a refusal has a status of its own; raises `RequestError`."""
        self._first = await anext(self._events)
        self._add(self._first)

    async def events(self) -> AsyncGenerator[Numbered, None]:
        """(number of the answer, event), all of them; raises `RequestError` where an answer fails."""
        async with aclosing(self._events) as events:
            if self._first is not None:
                yield self._first
            async for event in events:
                self._add(event)
                yield event

    async def collect(self) -> list[Answer]:
        """All answers, whole; raises `RequestError`."""
        async with aclosing(self.events()) as events:
            async for _ in events:
                pass
        return self.answers

    async def close(self) -> None:
        """Cancel what is not finished."""
        await self._events.aclose()
        for times in self._times:
            times.close()

    @property
    def usage(self) -> Usage:
        return Usage.of(self.answers, self._per_prompt)

    def _add(self, numbered_event: Numbered) -> None:
        number, event = numbered_event
        self._times[number].observe(event)
        if isinstance(event, Failed):
            raise failure(event, self._places, self._fields)
        self.answers[number].add(event)
