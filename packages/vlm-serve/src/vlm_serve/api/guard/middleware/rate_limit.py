"""A limit of requests for each API key, or for each address where no key is asked for."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from vlm_serve.api.guard.addresses import client_network
from vlm_serve.api.guard.context import owner
from vlm_serve.api.guard.errors import RequestError

MOST_BUCKETS = 100_000
"""Clients that are remembered; of more, the one that was quiet longest is forgotten, and begins with a full bucket."""


class TokenBuckets:
    """A bucket of `burst` tokens for each client, refilled by `per_minute`; a request takes one."""

    def __init__(self, per_minute: int, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = per_minute / 60, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """0 if a token was taken, else the seconds until there is one."""
        now = self._clock()
        tokens, at = self._buckets.pop(client, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - at) * self._rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._rate
        self._buckets[client] = (tokens if wait else tokens - 1, now)
        if len(self._buckets) > MOST_BUCKETS:
            self._buckets.popitem(last=False)
        return wait


class RateLimit:
    """Answers 429 with `Retry-After` to a client that sends too many requests to the API."""

    def __init__(self, app: ASGIApp, per_minute: int, burst: int) -> None:
        self._app, self._per_minute = app, per_minute
        self._buckets = TokenBuckets(per_minute, burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            return await self._app(scope, receive, send)
        host = (scope.get("client") or ("",))[0]
        wait = math.ceil(self._buckets.take(owner(scope) or client_network(host)))
        if not wait:
            return await self._app(scope, receive, send)
        text = f"More than {self._per_minute} requests per minute; try again in {wait} s."
        error = RequestError(429, text, code="rate_limit_exceeded", headers={"retry-after": str(wait)})
        await error.response()(scope, receive, send)
