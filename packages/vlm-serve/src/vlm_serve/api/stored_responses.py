"""Responses that are kept to be retrieved, and to be continued by `previous_response_id`."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from vlm_serve.engine.request import ChatMessage


@dataclass(frozen=True)
class StoredItem:
    """A message of a conversation, with what the API says of it besides."""

    id: str
    role: str
    status: str
    message: ChatMessage
    urls: tuple[str, ...] = ()
    """Those of its images, in order; of a `data:` URL the part before the base64."""

    @property
    def nbytes(self) -> int:
        """Bytes, about."""
        sizes = [4 * len(part) if isinstance(part, str) else len(part.data) for part in self.message.parts]
        return sum(sizes) + sum(map(len, self.urls)) + 512


@dataclass(frozen=True)
class StoredResponse:
    """A response's object, and the items of its conversation, of which the last is its answer."""

    body: Mapping[str, Any]
    items: tuple[StoredItem, ...]

    @property
    def nbytes(self) -> int:
        """Bytes, about; images that several responses of a conversation share count for each."""
        return sum(item.nbytes for item in self.items) + len(json.dumps(self.body)) + 1024


class _Entry(NamedTuple):
    response: StoredResponse
    nbytes: int
    stored_at: float


class ResponseStore:
    """Responses by owner and id, in memory alone.

    One is gone `max_age` seconds after it was stored. Beyond the other limits the least recently used are dropped; one
    that is larger than `max_bytes` alone is not kept.
    """

    def __init__(
        self,
        max_responses: int,
        max_bytes: int,
        max_age: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_responses, self._max_bytes, self._max_age = max_responses, max_bytes, max_age
        self._clock = clock
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._by_age: OrderedDict[tuple[str, str], None] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, owner: str, response: StoredResponse) -> None:
        self._drop_old()
        size, key = response.nbytes, (owner, response.body["id"])
        if size > self._max_bytes:
            return
        self._entries[key], self._by_age[key] = _Entry(response, size, self._clock()), None
        self.nbytes += size
        while len(self._entries) > self._max_responses or self.nbytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def get(self, owner: str, name: str) -> StoredResponse | None:
        """The owner's response of this id; None if there is none, or no longer."""
        self._drop_old()
        key = owner, name
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key].response

    def delete(self, owner: str, name: str) -> bool:
        """Whether there was such a response."""
        self._drop_old()
        known = (owner, name) in self._entries
        if known:
            self._drop((owner, name))
        return known

    def _drop_old(self) -> None:
        oldest = self._clock() - self._max_age
        while self._by_age and self._entries[key := next(iter(self._by_age))].stored_at < oldest:
            self._drop(key)

    def _drop(self, key: tuple[str, str]) -> None:
        self.nbytes -= self._entries.pop(key).nbytes
        del self._by_age[key]
