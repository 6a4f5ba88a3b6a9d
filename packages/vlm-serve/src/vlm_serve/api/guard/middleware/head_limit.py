"""A limit of the bytes of a request's head, also of one that arrives at once."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from vlm_serve.api.guard.errors import RequestError


class HeadLimit:
    """Answers 431 to a request whose address and headers together have too many bytes."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _size(scope) <= self._max:
            return await self._app(scope, receive, send)
        text = f"The request's head has more than the {self._max} bytes that are allowed."
        await RequestError(431, text, code="head_too_large").response()(scope, receive, send)


def _size(scope: Scope) -> int:
    address = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    return address + sum(len(name) + len(value) for name, value in scope["headers"])
