"""An engine that tells what a test wrote, to see what clients get when answers fail or hang."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from vlm_serve.engine.request import Event, Finished, GenerationRequest, ModelFacts, Piece, Started

ANSWER = (Started(3, 0), Piece("one ", 1), Piece("two", 1), Finished("stop", 2))


class ScriptedEngine:
    """Answers every request with `events`; an exception among them is raised, and `None` waits for ever."""

    def __init__(self, events: Sequence[Event | Exception | None] = ANSWER, *, videos: bool = False) -> None:
        self.events = events
        self.requests: list[GenerationRequest] = []
        self.active = self.closed = 0
        self._facts = ModelFacts("scripted", "0123456789abcdef", 100, images=True, videos=videos, system=True)

    def facts(self) -> ModelFacts:
        return self._facts

    def stats(self) -> Mapping[str, float]:
        return {"slots_used": self.active, "requests_total": len(self.requests)}

    def failure(self) -> None:
        return None

    async def close(self, grace: float = 30.0) -> None:
        pass

    async def submit(self, request: GenerationRequest) -> AsyncIterator[Event]:
        self.requests.append(request)
        self.active += 1
        try:
            for event in self.events:
                if isinstance(event, Exception):
                    raise event
                if event is None:
                    await asyncio.Event().wait()
                else:
                    yield event
                await asyncio.sleep(0)
        finally:
            self.active -= 1
            self.closed += 1
