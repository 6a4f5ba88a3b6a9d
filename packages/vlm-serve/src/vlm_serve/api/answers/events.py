"""Events of several answers in the order in which they come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from typing import Any

from vlm_serve.engine.request import Engine, Event, Failed, Finished, GenerationRequest

_log = logging.getLogger(__name__)
Numbered = tuple[int, Event]
WAITING = 8
"""Events of one answer that wait for a slow reader; the engine keeps later ones, which are bounded by `max_tokens`."""


async def one(engine: Engine, request: GenerationRequest) -> AsyncGenerator[Event, None]:
    """The events of an answer; an engine's bug, or an iterator without a last event, becomes a failure."""
    iterator: Any = engine.submit(request)
    try:
        async for event in iterator:
            yield event
            if isinstance(event, Finished | Failed):
                return
        yield Failed("crashed", "The answer has ended without a reason; try again.")
    except Exception:
        _log.exception("request %s: the engine has failed", request.id)
        yield Failed("crashed", "The answer has failed in the server; try again.")
    finally:
        await close(iterator)


async def close(iterator: AsyncIterator[Event]) -> None:
    """Cancel the request behind an iterator, unless it has ended."""
    aclose = getattr(iterator, "aclose", None)
    if aclose is not None:
        await aclose()


async def numbered(engine: Engine, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Numbered, None]:
    """(number of the answer, event) of all requests; after a failure, the last one, the others are cancelled."""
    if len(requests) == 1:
        async with aclosing(one(engine, requests[0])) as events:
            async for event in events:
                yield 0, event
        return
    queue = asyncio.Queue[Numbered](WAITING * len(requests))
    tasks = [asyncio.create_task(_pump(engine, r, i, queue)) for i, r in enumerate(requests)]
    try:
        left = len(tasks)
        while left:
            number, event = await queue.get()
            yield number, event
            if isinstance(event, Failed):
                return
            left -= isinstance(event, Finished)
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    engine: Engine, request: GenerationRequest, number: int, queue: asyncio.Queue[Numbered]
) -> None:
    async with aclosing(one(engine, request)) as events:
        async for event in events:
            await queue.put((number, event))
