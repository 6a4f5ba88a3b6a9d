"""Counts requests by route and status, whoever answered them."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLIENT_GONE = 499
"""The status of a request whose client went away before it had one, as nginx counts it."""


class RequestCount:
    """Middleware around all others; paths besides `routes` count as "other", so that labels are few."""

    def __init__(self, app: ASGIApp, counter: Counter, routes: Iterable[str]) -> None:
        self._app, self._counter, self._routes = app, counter, frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status = CLIENT_GONE

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            self._counter.labels(self._route(scope["path"]), str(status)).inc()

    def _route(self, path: str) -> str:
        """The route of a path: its own, or that of the folder that an id is in."""
        if path in self._routes:
            return path
        folder, _, _ = path.rpartition("/")
        return f"{folder}/{{id}}" if folder in self._routes and folder else "other"
