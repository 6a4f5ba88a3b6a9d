"""Responses that are kept to be retrieved, and to be continued by `previous_response_id`."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vlm_core.states.owned_lru import OwnedLru
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


class ResponseStore:
    """Responses by owner and id, in memory alone.

    One is gone `max_age` seconds after it was stored. Beyond the other limits the owner with the most bytes, or the
    most responses, loses the least recently used; one that is larger than `max_bytes` alone is not kept.
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
        self._responses = OwnedLru[str, StoredResponse]()
        self._stored_at: OrderedDict[tuple[str, str], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._responses)

    @property
    def nbytes(self) -> int:
        """Bytes of all, about."""
        return self._responses.nbytes

    def put(self, owner: str, response: StoredResponse) -> None:
        self._drop_old()
        size, name = response.nbytes, response.body["id"]
        if size > self._max_bytes:
            return
        self._responses.put(owner, name, response, size)
        self._stored_at[owner, name] = self._clock()
        while self.nbytes > self._max_bytes:
            del self._stored_at[self._responses.drop_of_most_bytes()]
        while len(self) > self._max_responses:
            del self._stored_at[self._responses.drop_of_most_values()]

    def get(self, owner: str, name: str) -> StoredResponse | None:
        """The owner's response of this id; None if there is none, or no longer."""
        self._drop_old()
        return self._responses.get(owner, name)

    def delete(self, owner: str, name: str) -> bool:
        """Whether there was such a response."""
        self._drop_old()
        self._stored_at.pop((owner, name), None)
        return self._responses.pop(owner, name) is not None

    def _drop_old(self) -> None:
        oldest = self._clock() - self._max_age
        while self._stored_at and self._stored_at[key := next(iter(self._stored_at))] < oldest:
            del self._stored_at[key]
            self._responses.pop(*key)
