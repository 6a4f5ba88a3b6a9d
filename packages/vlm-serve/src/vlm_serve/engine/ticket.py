"""A submitted request, and the way of its events back to the event loop that submitted it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import suppress

from vlm_serve.engine.request import Event, Failed, Finished, GenerationRequest

CLOSING = Failed("overloaded", "the server is shutting down")
FULL = Failed("overloaded", "too many requests are waiting; try again later")


class Ticket:
    """A request whose events come from another thread. Events after the last one, or after `cancel`, are dropped."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request, self._events = request, asyncio.Queue[Event]()
        self._loop = asyncio.get_running_loop()
        self.cancelled = self.done = False
        self.on_cancel: Callable[[], None] = lambda: None

    def send(self, event: Event) -> None:
        """From any thread."""
        if self.done or self.cancelled:
            return
        self.done = isinstance(event, Finished | Failed)
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def events(self) -> AsyncGenerator[Event]:
        """All events; if the caller stops before the last one, the request is cancelled."""
        try:
            while True:
                event = await self._events.get()
                yield event
                if isinstance(event, Finished | Failed):
                    return
        finally:
            if not self.done:
                self.cancelled = True
                self.on_cancel()


def is_full(waiting: int, limit: int, owner: str, tickets: Collection[Ticket]) -> bool:
    """Whether a request of `owner` must be refused because `limit` requests are `waiting`.

    An owner with less than an equal share of the limit among `tickets` may always wait: no other can fill the queue
    against it. Twice the limit may wait together.
    """
    if waiting < limit:
        return False
    counts = Counter(ticket.request.owner for ticket in tickets)
    owners = len(counts.keys() | {owner})
    return owners == 1 or counts[owner] >= max(1, limit // owners)
