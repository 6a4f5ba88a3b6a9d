"""A submitted request, and the way of its events back to the event loop that submitted it."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import suppress

from vlm_serve.engine.request import Event, Failed, Finished, GenerationRequest

CLOSING = Failed("overloaded", "the server is shutting down")
FULL = Failed("overloaded", "too many requests are waiting; try again later")


class Outbox:
    """Events on their way to the running event loop; to wake it takes longer than what a thread does for a token."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._events = deque[tuple[asyncio.Queue[Event], Event]]()
        self._woken = False

    @classmethod
    def here(cls, known: Outbox | None) -> Outbox:
        """The known one, if it is that of the running loop, or a new one."""
        return known if known is not None and known.loop is asyncio.get_running_loop() else cls()

    def put(self, queue: asyncio.Queue[Event], event: Event) -> None:
        """From any thread; it is delivered after the next `flush`."""
        self._events.append((queue, event))

    def flush(self) -> None:
        """From any thread."""
        if self._events and not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop has ended
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False  # first: an event that comes now wakes again
        while self._events:
            queue, event = self._events.popleft()
            queue.put_nowait(event)


class Ticket:
    """A request whose events come from another thread. Events after the last one, or after `cancel`, are dropped."""

    def __init__(self, request: GenerationRequest, outbox: Outbox | None = None) -> None:
        """`outbox`: one of the running loop, that tickets share."""
        self.request, self._events = request, asyncio.Queue[Event]()
        self._outbox = outbox or Outbox()
        self.cancelled = self.done = False
        self.on_cancel: Callable[[], None] = lambda: None

    def send(self, event: Event) -> None:
        """From any thread."""
        self.hold(event)
        self.flush()

    def hold(self, event: Event) -> None:
        """As `send`, at the next `flush` of any ticket of this loop."""
        if self.done or self.cancelled:
            return
        self.done = isinstance(event, Finished | Failed)
        self._outbox.put(self._events, event)

    def flush(self) -> None:
        self._outbox.flush()

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
    against it. Beyond the limit, each owner adds at most its share.
    """
    if waiting < limit:
        return False
    counts = Counter(ticket.request.owner for ticket in tickets)
    owners = len(counts.keys() | {owner})
    return owners == 1 or counts[owner] >= max(1, limit // owners)
