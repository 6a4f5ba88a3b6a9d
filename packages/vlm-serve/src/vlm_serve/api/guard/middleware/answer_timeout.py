"""A limit of the time that one answer may take, waiting included."""

from __future__ import annotations

import json

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlm_serve.api.guard.errors import RequestError


class AnswerTimeout:
    """Ends an answer that takes too long: with a 504, or with an error event in a stream that was begun."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, is_stream = False, False

        async def sent(message: Message) -> None:
            nonlocal started, is_stream
            if message["type"] == "http.response.start":
                started = True
                is_stream = any(
                    name.lower() == b"content-type" and value.startswith(b"text/event-stream")
                    for name, value in message.get("headers", ())
                )
            await send(message)

        with anyio.move_on_after(self._seconds) as scope_of_time:
            await self._app(scope, receive, sent)
        if not scope_of_time.cancelled_caught:
            return
        text = f"The answer took longer than {self._seconds:g} s and was ended."
        error = RequestError(504, text, code="answer_timeout")
        if not started:
            return await error.response()(scope, receive, send)
        body = f"data: {json.dumps(error.body())}\n\n".encode() if is_stream else b""
        if not is_stream:
            raise TimeoutError(text)  # half of a body can't be mended; the connection is broken off
        await send({"type": "http.response.body", "body": body, "more_body": False})
