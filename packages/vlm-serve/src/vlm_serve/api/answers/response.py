"""The HTTP response of answers that are still to be computed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from vlm_serve.api.answers.running import RunningAnswers
from vlm_serve.api.transport.disconnect import while_connected
from vlm_serve.api.transport.sse import send_events


class Shape(Protocol):
    """An endpoint's objects: the whole answer, and the events of a stream."""

    def whole(self, running: RunningAnswers) -> Mapping[str, Any]:
        """The object of answers that have ended."""
        ...

    def events(self, running: RunningAnswers) -> AsyncGenerator[bytes, None]:
        """The events of answers, errors included."""
        ...


class AnswerResponse(Response):
    """Computes answers while their client is there, and sends them whole or as a stream.

    Until the engine has begun, an error has a status of its own: it is raised as `RequestError`.
    """

    def __init__(self, running: RunningAnswers, shape: Shape, *, stream: bool) -> None:
        super().__init__()
        self._running, self._shape, self._stream = running, shape, stream
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._answer(scope, receive, send))
        except (ClientDisconnect, OSError):
            if not self._started:
                raise ClientDisconnect from None

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._running.start()
            if self._stream:
                self._started = True
                await send_events(send, self._shape.events(self._running))
                return
            await self._running.collect()
            self._started = True
            await JSONResponse(self._shape.whole(self._running))(scope, receive, send)
        finally:
            await self._running.close()
