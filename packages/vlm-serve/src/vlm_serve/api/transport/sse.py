"""Server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.types import Send

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
DONE = b"data: [DONE]\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # asks proxies to pass each event on at once
]


def event(data: Mapping[str, Any], name: str = "") -> bytes:
    """One event; JSON text has no line feed."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {_encode(data)}\n\n".encode()


async def send_events(send: Send, events: AsyncGenerator[bytes, None]) -> None:
    """Send a response of events as they come, none ahead of its reader: the next is made when the last was taken."""
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    async with aclosing(events):
        async for chunk in events:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
