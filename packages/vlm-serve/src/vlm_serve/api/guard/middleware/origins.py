"""Which web pages may use the server: its own, and those of the allowed origins.

A page of any site can send requests to a server on its visitor's machine. `OriginCheck` refuses what browsers mark
with another origin. `HostCheck` refuses requests under a foreign name: a site whose name resolves to 127.0.0.1 has the
server's own origin in the browser's eyes (DNS rebinding). With API keys the latter is not needed: such a page has none.
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from vlm_core.markup.printable import printable
from vlm_serve.api.guard.errors import RequestError


class OriginCheck:
    """Answers 403 to requests from pages of other origins than the server's own and the allowed ones."""

    def __init__(self, app: ASGIApp, allowed: tuple[str, ...]) -> None:
        self._app, self._allowed = app, frozenset(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if scope["type"] != "http" or origin is None or origin in self._allowed:
            return await self._app(scope, receive, send)
        if _server_name(origin) == headers.get("host", "").lower():
            return await self._app(scope, receive, send)
        text = f"Pages of {printable(origin, 100)} may not use this server; --allow-origin allows them."
        await RequestError(403, text, code="origin_not_allowed").response()(scope, receive, send)


def _server_name(origin: str) -> str | None:
    """`example.org:8000` of `http://example.org:8000`; None for `null` and other opaque origins."""
    scheme, separator, name = origin.lower().partition("://")
    return name if separator and scheme in ("http", "https") else None


class HostCheck:
    """Answers 403 to requests under a name that is neither an address, localhost, nor one of `names`."""

    def __init__(self, app: ASGIApp, names: tuple[str, ...]) -> None:
        self._app, self._names = app, frozenset({"localhost", *(name.lower() for name in names)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = Headers(scope=scope).get("host", "")
        if scope["type"] != "http" or self._is_known(host):
            return await self._app(scope, receive, send)
        text = (
            f"Without API keys this server answers under its address and localhost alone, not as "
            f"{printable(host, 100) or 'a server without a name'}; --allow-host adds a name."
        )
        await RequestError(403, text, code="host_not_allowed").response()(scope, receive, send)

    def _is_known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._names or name.endswith(".localhost") or _is_address(name)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
