"""A line of the log for each request, and its id: no header, no query, no body, no key."""

from __future__ import annotations

import logging
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlm_core.markup.printable import printable
from vlm_serve.api.guard.context import owner, request_id, set_request_id
from vlm_serve.api.guard.errors import RequestError

log = logging.getLogger(__name__)
_LONGEST_PATH = 200


class AccessLog:
    """Gives each request an id, sent as `x-request-id`, and logs how it was answered.

    An exception of the interface becomes a 500 in OpenAI's shape; its traceback is logged.
    """

    def __init__(self, app: ASGIApp, enabled: bool) -> None:
        self._app, self._enabled = app, enabled

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        set_request_id(scope, f"req_{secrets.token_hex(8)}")
        answer = _Answer(send, request_id(scope).encode())
        start = time.monotonic()
        try:
            await self._app(scope, receive, answer.send)
        except Exception:
            log.exception("%s: internal error", request_id(scope))
            if answer.status:
                raise  # too late for a status; the connection is broken off
            error = RequestError(500, f"Internal error; the log has it under {request_id(scope)}.")
            await error.response()(scope, receive, answer.send)
        finally:
            if self._enabled:
                self._write(scope, answer, time.monotonic() - start)

    def _write(self, scope: Scope, answer: _Answer, seconds: float) -> None:
        client = (scope.get("client") or ("-",))[0]
        method, path = printable(scope["method"], 20), printable(scope["path"], _LONGEST_PATH)
        status = f"{answer.status or '-'}{'' if answer.complete else ' broken off'}"
        name = owner(scope) or "-"
        log.info(
            "%s %s %s %s %s %d bytes %d ms %s",
            client,
            name,
            method,
            path,
            status,
            answer.size,
            1000 * seconds,
            request_id(scope),
        )


class _Answer:
    """Counts what is sent, and adds the request's id to its headers."""

    def __init__(self, send: Send, number: bytes) -> None:
        self._send, self._number = send, number
        self.status, self.size, self.complete = 0, 0, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self._number)]
            message = {**message, "headers": headers}
        await self._send(message)
        if message["type"] == "http.response.body":
            self.size += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
