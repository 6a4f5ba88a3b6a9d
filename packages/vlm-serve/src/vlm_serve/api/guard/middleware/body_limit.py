"""Limits of a request's body, in bytes and in time. A body that keeps them is read before the interface is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import anyio
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlm_serve.api.guard.context import owner
from vlm_serve.api.guard.errors import RequestError


class PendingBytes:
    """Bytes of the bodies of all requests that have no answer yet, by owner; together at most `limit`.

    If there are `several_owners`, what one has in more than one body is at most what is left over: alone half of the
    limit, two a third each. So there is always room for another, and one's many bodies don't keep out the others'.
    """

    def __init__(self, limit: int, *, several_owners: bool) -> None:
        self._limit, self._several, self._of = limit, several_owners, Counter[str]()

    def add(self, owner: str, nbytes: int) -> None:
        """Count bytes of an owner; negative ones are those of a body that has its answer."""
        self._of[owner] += nbytes
        self._of += Counter()  # leaves out owners without any

    def has_room(self, owner: str, body: int) -> bool:
        """Whether the owner may have what is counted, `body` bytes of it in the body that comes now."""
        own, total = self._of[owner], self._of.total()
        is_fair = not self._several or own == body or own + total <= self._limit
        return is_fair and total <= self._limit


class BodyLimit:
    """Refuses a body by its announced size, or once too much of it, or of all bodies together, has come."""

    def __init__(
        self, app: ASGIApp, max_bytes: int, max_pending_bytes: int, timeout: float, *, several_owners: bool
    ) -> None:
        self._app, self._max, self._timeout = app, max_bytes, timeout
        self._pending = PendingBytes(max_pending_bytes, several_owners=several_owners)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["type"] != "http" or not ("content-length" in headers or "transfer-encoding" in headers):
            return await self._app(scope, receive, send)
        body = _Body(self._max, self._pending, owner(scope))
        try:
            try:
                body.check_announced(headers.get("content-length", "0"))
                with anyio.fail_after(self._timeout):
                    await body.read(receive)
            except RequestError as error:
                return await error.response()(scope, receive, send)
            except TimeoutError:
                text = f"The request's body did not arrive within {self._timeout:g} s."
                error = RequestError(408, text, code="body_timeout")
                return await error.response()(scope, receive, send)
            except ClientDisconnect:
                return
            await self._app(scope, body.replay(receive), body.releasing(send))
        finally:
            body.release()


class _Body:
    """A request's body, counted in `pending` from its first byte to the first byte of its answer."""

    def __init__(self, limit: int, pending: PendingBytes, owner: str) -> None:
        self._limit, self._pending, self._owner = limit, pending, owner
        self._counted, self._data = 0, bytearray()

    def check_announced(self, length: str) -> None:
        if not length.isdigit() or int(length[:19]) > self._limit:
            raise self._too_large()

    async def read(self, receive: Receive) -> None:
        async for part in _parts(receive):
            self._data += part
            self._counted += len(part)
            self._pending.add(self._owner, len(part))
            if len(self._data) > self._limit:
                raise self._too_large()
            if not self._pending.has_room(self._owner, len(self._data)):
                text = "The server holds as many request bodies as it may; try again."
                raise RequestError(503, text, code="overloaded", headers={"retry-after": "1"})

    def _too_large(self) -> RequestError:
        text = f"The request's body has more than the {self._limit} bytes that are allowed."
        return RequestError(413, text, code="body_too_large")

    def replay(self, receive: Receive) -> Receive:
        """A `receive` that gives the whole body once, then what comes after it."""

        async def replayed() -> Message:
            if self._data is None:
                return await receive()
            data, self._data = bytes(self._data), None
            return {"type": "http.request", "body": data, "more_body": False}

        return replayed

    def releasing(self, send: Send) -> Send:
        """A `send` after whose first message the body is no longer counted: an answer in progress keeps none."""

        async def sent(message: Message) -> None:
            self.release()
            await send(message)

        return sent

    def release(self) -> None:
        self._pending.add(self._owner, -self._counted)
        self._counted = 0


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        yield message.get("body", b"")
        more = message.get("more_body", False)
