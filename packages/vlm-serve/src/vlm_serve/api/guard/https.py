"""Files from https addresses, for hosts that the server's settings allow and that have public addresses."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import anyio
import httpcore2

from vlm_core.markup.printable import printable
from vlm_serve.api.guard.addresses import is_public
from vlm_serve.api.guard.errors import RequestError
from vlm_serve.api.guard.settings import ServerSettings

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = [
    (b"accept", b"image/*, video/*"),
    (b"accept-encoding", b"identity"),
    (b"user-agent", b"vlm-serve"),
]


class _Target(NamedTuple):
    """A checked URL: what is connected to, and what is asked for there."""

    url: str
    host: str
    port: int
    path: str


class _PublicBackend(httpcore2.AsyncNetworkBackend):
    """Connects to the address that was checked: a name is resolved once, and only here."""

    def __init__(self) -> None:
        # its class is conditional on anyio, which starlette brings
        self._network: httpcore2.AsyncNetworkBackend = httpcore2.AnyIOBackend()  # pyright: ignore[reportAttributeAccessIssue]

    async def connect_tcp(  # the name and the arguments are the library's
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            resolved = await anyio.getaddrinfo(host, port, proto=6)
        except (OSError, UnicodeError):
            raise httpcore2.ConnectError("the name has no address") from None
        addresses = [str(entry[4][0]) for entry in resolved]
        if not addresses or not all(map(is_public, addresses)):
            raise _NotPublic
        return await self._network.connect_tcp(addresses[0], port, timeout, local_address, socket_options)


class _NotPublic(Exception):
    """A name with an address inside a private network."""


async def fetch_https(url: str, name: str, settings: ServerSettings) -> bytes:
    """The file at an https URL; redirects are followed and checked likewise.

    Raises `RequestError` for a host that is not allowed, an address that is not public, too many bytes, or no answer
    within the time limit. Messages name the host alone: a URL may hold a secret.
    """
    target = _checked(url, name, settings)
    try:
        with anyio.fail_after(settings.image_timeout):
            for _ in range(settings.image_redirects + 1):
                answer = await _get(target, name, settings)
                if isinstance(answer, bytes):
                    return answer
                target = _checked(answer, name, settings, base=target.url)
    except TimeoutError:
        raise _unavailable(name, target, f"no full answer within {settings.image_timeout:g} s") from None
    raise _unavailable(name, target, f"more than {settings.image_redirects} redirects")


async def _get(target: _Target, name: str, settings: ServerSettings) -> bytes | str:
    """The content, or the place that a redirect leads to."""
    url = httpcore2.URL(scheme="https", host=target.host, port=target.port, target=target.path)
    host = target.host if target.port == 443 else f"{target.host}:{target.port}"
    headers = [(b"host", host.encode()), *_HEADERS]
    try:
        async with (
            httpcore2.AsyncConnectionPool(_ssl_context(), network_backend=_PublicBackend()) as pool,
            pool.stream("GET", url, headers=headers) as response,
        ):
            fields = {key.lower(): value for key, value in response.headers}
            if response.status in _REDIRECTS and b"location" in fields:
                return fields[b"location"].decode("latin-1")
            if response.status != 200:
                raise _unavailable(name, target, f"the status is {response.status}")
            if fields.get(b"content-encoding", b"identity") != b"identity":
                raise _unavailable(name, target, "the answer is compressed, which was not asked for")
            return await _limited(response, fields, name, settings)
    except _NotPublic:
        text = f"{name}: the host {printable(target.host, 100)} has no public address, so that it is not fetched."
        raise RequestError(400, text, code="image_not_allowed") from None
    except (
        httpcore2.NetworkError,
        httpcore2.ProtocolError,
        httpcore2.TimeoutException,
        ssl.SSLError,
        OSError,
    ):
        raise _unavailable(name, target, "the connection failed") from None


async def _limited(
    response: httpcore2.Response, fields: dict[bytes, bytes], name: str, settings: ServerSettings
) -> bytes:
    limit, content = settings.max_image_bytes, bytearray()
    announced = fields.get(b"content-length", b"")
    if announced.isdigit() and int(announced[:19]) > limit:
        raise too_many_bytes(name, limit)
    async for part in response.aiter_stream():
        content += part
        if len(content) > limit:
            raise too_many_bytes(name, limit)
    return bytes(content)


def too_many_bytes(name: str, limit: int) -> RequestError:
    return RequestError(400, f"{name}: more than the {limit} bytes that are allowed.", code="image_too_large")


def _unavailable(name: str, target: _Target, why: str) -> RequestError:
    text = f"{name}: could not be fetched from {printable(target.host, 100)}: {why}."
    return RequestError(400, text, code="image_unavailable")


@cache
def _ssl_context() -> ssl.SSLContext:
    """The certificates of this machine; reading them takes long."""
    return ssl.create_default_context()


def _checked(url: str, name: str, settings: ServerSettings, base: str = "") -> _Target:
    """What a URL, relative to `base` if it is that of a redirect, leads to; raises `RequestError`."""
    try:
        url = urljoin(base, url)
        parts = urlsplit(url)
        if parts.scheme != "https":
            text = f"{name}: only https addresses are fetched, not {printable(parts.scheme, 20) or 'relative ones'}."
            raise RequestError(400, text, code="image_not_allowed")
        host, port = _host(parts), parts.port or 443
    except ValueError:
        raise RequestError(400, f"{name}: not a URL that can be read.", code="invalid_image_url") from None
    if "@" in parts.netloc:
        text = f"{name}: a URL with a user name or a password is not fetched."
        raise RequestError(400, text, code="image_not_allowed")
    if not any(_matches(pattern, host, port) for pattern in settings.image_hosts):
        text = f"{name}: this server fetches no images from {printable(host, 100)}"
        text += f":{port}." if port != 443 else "."
        raise RequestError(400, text, code="image_not_allowed")
    path = quote(parts.path or "/", safe="%/:=&~+!$,;'@()*-._")
    query = f"?{quote(parts.query, safe='%/:=&~+!$,;@()*-._?')}" if parts.query else ""
    return _Target(url, host, port, path + query)


def _host(parts: SplitResult) -> str:
    """The host in the form that DNS and certificates use; `ValueError` if there is none."""
    host = (parts.hostname or "").rstrip(".")
    if not host:
        raise ValueError("no host")
    return host if host.isascii() else host.encode("idna").decode()


def _matches(pattern: str, host: str, port: int) -> bool:
    """Whether `example.org`, `example.org:8443`, `*.example.org` or `*` covers a host and port."""
    allowed, colon, number = pattern.lower().rpartition(":")
    if not (colon and number.isdigit()):
        allowed, number = pattern.lower(), "443"
    if int(number) != port:
        return False
    return allowed in ("*", host) or (allowed.startswith("*.") and host.endswith(allowed[1:]))
