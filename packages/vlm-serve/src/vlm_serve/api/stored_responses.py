"""Responses that are kept to be retrieved, and to be continued by `previous_response_id`."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlm_serve.engine.request import ChatMessage

MAX_RESPONSES = 10_000
MAX_BYTES = 256 * 2**20
"""Limits of what is kept, in memory alone: beyond them, and after a restart, the oldest responses are gone."""


@dataclass(frozen=True)
class StoredResponse:
    """A response's object, and the conversation with its answer."""

    body: Mapping[str, Any]
    messages: tuple[ChatMessage, ...]

    @property
    def nbytes(self) -> int:
        """Bytes, about; images that several responses of a conversation share count for each."""
        parts = [part for message in self.messages for part in message.parts]
        sizes = [4 * len(part) if isinstance(part, str) else len(part.data) for part in parts]
        return sum(sizes) + len(json.dumps(self.body)) + 1024


class ResponseStore:
    """Responses by owner and id; the least recently used are dropped beyond the limits."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses, self._max_bytes = max_responses, max_bytes
        self._responses: OrderedDict[tuple[str, str], tuple[StoredResponse, int]] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._responses)

    def put(self, owner: str, response: StoredResponse) -> None:
        size = response.nbytes
        self._responses[owner, response.body["id"]] = response, size
        self.nbytes += size
        while len(self._responses) > self._max_responses or self.nbytes > self._max_bytes:
            _, (_, dropped) = self._responses.popitem(last=False)
            self.nbytes -= dropped

    def get(self, owner: str, name: str) -> StoredResponse | None:
        """The owner's response of this id; None if there is none, or no longer."""
        key = owner, name
        if key not in self._responses:
            return None
        self._responses.move_to_end(key)
        return self._responses[key][0]

    def delete(self, owner: str, name: str) -> bool:
        """Whether there was such a response."""
        entry = self._responses.pop((owner, name), None)
        self.nbytes -= entry[1] if entry else 0
        return entry is not None
