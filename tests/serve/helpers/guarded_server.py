"""A guarded application behind a real socket, in a thread, and raw connections to it."""

import asyncio
import json
import socket
import threading
from contextlib import contextmanager
from http.client import HTTPResponse

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

from vlm_serve.api.guard.context import owner, request_id
from vlm_serve.api.guard.middleware.stack import guard_middleware
from vlm_serve.api.guard.protocol import server_config
from vlm_serve.api.guard.settings import ServerSettings

OPEN = frozenset({"/", "/health"})


async def echo(request: Request):
    body = await request.body()
    return JSONResponse({"bytes": len(body), "owner": owner(request.scope), "id": request_id(request.scope)})


async def flood(request: Request):
    """An answer larger than the buffers of a connection; the server notes how it ended."""
    request.app.state.flood = "running"

    async def parts():
        try:
            while True:
                yield b"x" * 65536
                await asyncio.sleep(0)
        finally:
            request.app.state.flood = "ended"

    return StreamingResponse(parts())


async def events(request: Request):
    async def parts():
        yield b"data: 1\n\n"
        await asyncio.sleep(30)

    return StreamingResponse(parts(), media_type="text/event-stream")


async def late(request: Request):
    await asyncio.sleep(30)


async def fault(request: Request):
    raise RuntimeError("a bug")


async def health(request: Request):
    return PlainTextResponse("ok")


def application(settings: ServerSettings) -> Starlette:
    handlers = {
        "/v1/echo": echo,
        "/v1/flood": flood,
        "/v1/events": events,
        "/v1/late": late,
        "/v1/fault": fault,
    }
    routes = [Route(path, handler, methods=["GET", "POST"]) for path, handler in handlers.items()]
    routes += [Route("/health", health), Route("/metrics", health), Route("/page/a.js", health)]
    return Starlette(routes=routes, middleware=guard_middleware(settings, OPEN, ("/page/",)))


@contextmanager
def served(app: Starlette, settings: ServerSettings):
    """The (host, port) of a running server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(server_config(app, settings))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.force_exit = server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


def until_closed(connection: socket.socket, seconds: float = 5.0) -> bytes:
    """All bytes up to the end of a connection; `TimeoutError` if it stays open."""
    connection.settimeout(seconds)
    data = b""
    while part := connection.recv(65536):
        data += part
    return data


def response(connection: socket.socket, seconds: float = 3.0) -> tuple[int, str]:
    """Status and body of the next answer."""
    connection.settimeout(seconds)
    answer = HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.read().decode()


def error(connection: socket.socket) -> tuple[int, dict[str, str]]:
    """Status and error of the next answer."""
    status, body = response(connection)
    return status, json.loads(body)["error"]


def head(path: str, *fields: str, method: str = "POST") -> bytes:
    """The head of a request."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
