"""Server-sent events: the data of each event in a stream, bounded."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPResponse

from vlm_core.remote.server import Server
from vlm_core.remote.transport import RequestFailed

MAX_LINE, MAX_STREAM = 2**20, 64 * 2**20
"""Most bytes of a line, and of a whole stream."""


def events(server: Server, response: HTTPResponse) -> Iterator[str]:
    """The data of each complete event, up to `[DONE]` or the end of the stream; comments are skipped."""
    data: list[str] = []
    for line in _lines(server, response):
        if not line and data:
            text, data = "\n".join(data), []
            if text == "[DONE]":
                return
            yield text
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))


def _lines(server: Server, response: HTTPResponse) -> Iterator[str]:
    size = 0
    while line := response.readline(MAX_LINE + 1):
        size += len(line)
        if len(line) > MAX_LINE or size > MAX_STREAM:
            raise RequestFailed(
                f"{server.url}: the stream is too large: at most {MAX_LINE} bytes a line, {MAX_STREAM} in all"
            )
        if line.endswith(b"\n"):  # an unfinished line is no event
            yield line.decode("utf-8", "replace").rstrip("\r\n")
