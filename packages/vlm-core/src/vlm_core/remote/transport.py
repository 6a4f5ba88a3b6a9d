"""One HTTP request with the standard library: no redirect is followed, answers are bounded, errors are `UserError`."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from vlm_core.errors import UserError
from vlm_core.io.files import parse_json
from vlm_core.markup.printable import printable
from vlm_core.remote.server import Server

MAX_BYTES = 32 * 2**20
"""Most bytes of an answer that is no stream."""
_MESSAGE_BYTES, _MESSAGE = 65536, 400
"""Most bytes that are read of an error, and most characters of it in a message."""
_JSON, EVENTS = "application/json", "text/event-stream"
_RETRIED = (408, 429, 500, 502, 503)
"""States of a server, not faults of a request. An answer that takes too long (504) would do so again."""
_REDIRECTS = (301, 302, 303, 307, 308)


class RequestFailed(UserError):
    """A request without a (complete) answer. `status` is None if no answer began; `temporary` ones may be sent again.

    `retry_after` is the time in seconds that the server asks to wait, None without one.
    """

    def __init__(
        self,
        *lines: object,
        status: int | None = None,
        temporary: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(*lines)
        self.status, self.temporary, self.retry_after = status, temporary, retry_after

    @property
    def of_request(self) -> bool:
        """Whether the server refuses this very request, so that others may have answers."""
        return self.status in (400, 413, 415, 422)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect becomes an error: neither key nor images go to an address that the user did not name."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
        return None


@contextmanager
def send(server: Server, path: str, body: Any = None, accept: str = _JSON) -> Iterator[HTTPResponse]:
    """The open answer to a GET, or to a POST of `body` as JSON; errors inside, too, become `RequestFailed`."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}{path}", data, _headers(server, accept))
    proxies = [urllib.request.ProxyHandler({})] if server.is_local else []
    try:
        with urllib.request.build_opener(_NoRedirects, *proxies).open(
            request, timeout=server.timeout
        ) as response:
            _check_type(server, response, accept)
            yield response
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(server, path, error) from None
    except (OSError, http.client.HTTPException) as error:
        raise _broken(server, error, len(data or b"")) from None


def _headers(server: Server, accept: str) -> dict[str, str]:
    try:
        agent = f"vlm-core/{version('vlm-core')}"
    except PackageNotFoundError:  # run from sources
        agent = "vlm-core"
    key = {"Authorization": f"Bearer {server.key}"} if server.key else {}
    fixed = {"Content-Type": _JSON, "Accept": accept, "Accept-Encoding": "identity", "User-Agent": agent}
    return {**fixed, **key}


def read_json(server: Server, response: HTTPResponse) -> dict[str, Any]:
    """The JSON object of an answer; bounded in bytes and in time."""
    chunks, size, until = [], 0, time.monotonic() + server.timeout
    while chunk := response.read1(65536):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_BYTES:
            raise RequestFailed(f"{server.url}: the answer has more than {MAX_BYTES} bytes")
        if time.monotonic() > until:
            raise TimeoutError
    length = response.getheader("Content-Length", "")
    if length.isascii() and length.isdigit() and size < int(length):  # `read1` ends without an error
        raise http.client.IncompleteRead(b"", int(length) - size)
    try:
        content = parse_json(b"".join(chunks).decode(), server.url)
    except UserError as error:
        raise RequestFailed(server.without_key(str(error))) from None
    except UnicodeDecodeError:
        raise RequestFailed(f"{server.url}: the answer is not UTF-8 text") from None
    if not isinstance(content, dict):
        raise RequestFailed(f"{server.url}: the answer is no JSON object; is this an OpenAI-compatible API?")
    return content


def _check_type(server: Server, response: HTTPResponse, accept: str) -> None:
    kind = response.headers.get_content_type()
    coding = response.getheader("Content-Encoding", "identity")
    if coding != "identity":
        raise RequestFailed(f"{server.url}: the answer is compressed ({coding:.40}), which was not asked for")
    if kind != accept:
        what = "a stream of events" if accept == EVENTS else "JSON"
        raise RequestFailed(
            f"{server.url}: answers with {kind:.80}, not {what}; is this the address of an OpenAI-compatible API, "
            "such as http://HOST:PORT/v1?"
        )


def error_text(server: Server, content: Any) -> str:
    """The message in an error of OpenAI's form or a similar one; "" if there is none."""
    while isinstance(content, dict):
        content = next((content[key] for key in ("error", "message", "detail") if content.get(key)), "")
    text = content if isinstance(content, str) else json.dumps(content)
    return printable(server.without_key(text), _MESSAGE)


def _refused(server: Server, path: str, error: urllib.error.HTTPError) -> RequestFailed:
    status, where = error.code, f"{server.url}{path}"
    if status in _REDIRECTS:
        target = server.without_key(str(error.headers.get("Location", "another address")))
        return RequestFailed(
            f"{where}: redirects to {printable(target, 200)} ({status}); redirects are not followed: name the "
            "server's own address",
            status=status,
        )
    text = _error_of(server, error)
    what = {
        401: "refuses the API key"
        if server.key
        else "wants an API key: name its variable with --api-key-env",
        403: "forbids this request",
        404: "knows no such model or address",
        413: "takes no request of this size",
        429: "takes no more requests now",
        503: "is overloaded, or starts or ends",
    }.get(status, "refuses this request" if status < 500 else "has failed")
    return RequestFailed(
        f"{where}: the server {what} ({status}){f': {text}' if text else ''}",
        status=status,
        temporary=status in _RETRIED,
        retry_after=_seconds(error.headers.get("Retry-After")),
    )


def _error_of(server: Server, error: urllib.error.HTTPError) -> str:
    """The server's message; "" for a page or what can't be read."""
    try:
        data = error.read(_MESSAGE_BYTES).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""
    if error.headers.get_content_type() != _JSON:
        return ""
    try:
        return error_text(server, parse_json(data, ""))
    except UserError:
        return ""


def _seconds(text: str | None) -> float | None:
    """The seconds of a `Retry-After`; None for a date, which few servers write."""
    return float(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None


def _broken(server: Server, error: OSError | http.client.HTTPException, sent: int) -> RequestFailed:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return RequestFailed(f"{server.url}: no answer in {server.timeout:g} s; --timeout sets another limit")
    if isinstance(reason, ssl.SSLError):
        return RequestFailed(f"{server.url}: no secure connection: {reason.reason or reason}; is it https?")
    if isinstance(reason, http.client.RemoteDisconnected | BrokenPipeError | ConnectionResetError):
        hint = f"; is a request of {sent} bytes too large for it?" if sent > 2**20 else ""
        return RequestFailed(
            f"{server.url}: the server closed the connection without an answer{hint}", temporary=True
        )
    if isinstance(reason, http.client.IncompleteRead):
        return RequestFailed(f"{server.url}: the server stopped in the middle of its answer", temporary=True)
    if isinstance(reason, http.client.HTTPException):
        return RequestFailed(f"{server.url}: no HTTP answer; is this the address of a web server?")
    text = printable(getattr(reason, "strerror", None) or reason, 200)
    return RequestFailed(f"{server.url}: cannot connect: {text}; is the server running?", temporary=True)
