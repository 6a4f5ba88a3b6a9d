"""HTTP connections with limits of time: for a request's head, for the rest of a refused body, and for slow readers."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from vlm_serve.api.guard.addresses import client_network
from vlm_serve.api.guard.errors import RequestError
from vlm_serve.api.guard.settings import ServerSettings

_LINGER_SECONDS = 5.0
"""For the rest of a body after its request was refused: a client reads the refusal once it has sent everything."""


_ENDING_SECONDS = 5
"""After the grace, in which the engine's errors reach the clients of what was not finished."""


def limited_protocol(settings: ServerSettings) -> type[H11Protocol]:
    """The class of a server's connections, for `uvicorn.Config(http=…)`."""
    limits = {
        "header_timeout": settings.header_timeout,
        "send_timeout": settings.send_timeout,
        "max_connections": settings.max_connections,
    }
    return type("LimitedProtocol", (_LimitedProtocol,), limits)


def server_config(app: ASGIApp, settings: ServerSettings) -> uvicorn.Config:
    """uvicorn's settings, with connections that have the limits of `settings`; it changes no logger."""
    return uvicorn.Config(
        app,
        http=limited_protocol(settings),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        h11_max_incomplete_event_size=settings.max_header_bytes,
        timeout_keep_alive=math.ceil(settings.keep_alive_timeout),
        timeout_graceful_shutdown=math.ceil(settings.grace) + _ENDING_SECONDS,
    )


def _network(connection: Any) -> str:
    return client_network((connection.client or ("",))[0])


class _LimitedProtocol(H11Protocol):
    header_timeout: float
    send_timeout: float
    max_connections: int

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # pyright: ignore[reportArgumentType]
        self._served, self.app = self.app, self._unless_full
        self._head, self._reader, self._rest = _Timer(), _Timer(), _Timer()

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._head.start(self.header_timeout, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head.stop()
        elif not self._head.is_running and self.timeout_keep_alive_task is None:
            # of a further request on this connection
            self._head.start(self.header_timeout, self._head_is_late)
        if self.conn.their_state is not h11.SEND_BODY:
            self._rest.stop()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._rest.start(_LINGER_SECONDS, self.transport.abort)
        if self.transport.get_write_buffer_size():  # too little for `pause_writing`; it would wait for ever
            self._reader.start(self.send_timeout, self._abort_unless_read)

    def _abort_unless_read(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader.start(self.send_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reader.stop()

    async def _unless_full(self, scope: Any, receive: Any, send: Any) -> None:
        """The application; uvicorn's own refusal of too many connections would be plain text."""
        if len(self.connections) <= self.max_connections or self._has_a_fair_share():
            return await self._served(scope, receive, send)
        text = f"The server has {self.max_connections} connections, as many as it may; try again."
        headers = {"retry-after": "1", "connection": "close"}
        await RequestError(503, text, code="overloaded", headers=headers).response()(scope, receive, send)

    def _has_a_fair_share(self) -> bool:
        """Whether this client's address has no more than an equal share of the connections that are allowed."""
        counts = Counter(_network(connection) for connection in self.connections)
        return len(counts) > 1 and counts[_network(self)] <= self.max_connections // len(counts)

    def _unsupported_upgrade_warning(self) -> None:
        """Not logged: any client may ask for another protocol, and is answered by HTTP."""

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head, self._reader, self._rest):
            timer.stop()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what is no HTTP; a head of too many bytes is among it."""
        self._refuse(RequestError(400, "Not an HTTP request that can be read, or its head is too large."))

    def _head_is_late(self) -> None:
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            text = f"The request's head did not arrive within {self.header_timeout:g} s."
            self._refuse(RequestError(408, text, code="header_timeout"))

    def _refuse(self, error: RequestError) -> None:
        body = json.dumps(error.body()).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        events = [
            h11.Response(status_code=error.status, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _Timer:
    """A callback after some seconds, unless it is stopped."""

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        return self._handle is not None

    def start(self, seconds: float, then: Callable[[], None]) -> None:
        self.stop()
        self._handle = asyncio.get_running_loop().call_later(seconds, then)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
