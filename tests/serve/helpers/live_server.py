"""The application behind a real socket, or behind none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import uvicorn
from starlette.applications import Starlette

from vlm_serve.api.app import create_app
from vlm_serve.api.guard.protocol import limited_protocol
from vlm_serve.api.guard.settings import ServerSettings
from vlm_serve.engine.request import Engine


def asgi_client(app: Starlette) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://localhost")


def call(engine: Engine, settings: ServerSettings, path: str, body: Any, **headers: str) -> httpx2.Response:
    """Post a body, as JSON unless it is bytes, to a fresh application of `engine`."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}

    async def post() -> httpx2.Response:
        async with asgi_client(create_app(engine, settings)) as client:
            return await client.post(path, content=content, headers=fields)

    return asyncio.run(post())


def sse_events(text: str) -> list[Any]:
    """The data of a stream of events; `[DONE]` as it is."""
    blocks = [block for block in text.split("\n\n") if block]
    data = [
        line.removeprefix("data: ") for b in blocks for line in b.split("\n") if line.startswith("data: ")
    ]
    assert len(data) == len(blocks)
    return [each if each == "[DONE]" else json.loads(each) for each in data]


@contextlib.contextmanager
def live_server(app: Starlette, settings: ServerSettings) -> Iterator[tuple[str, int]]:
    """Serve in a thread on a free port -> (host, port)."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            http=limited_protocol(settings),
            log_level="critical",
            lifespan="off",
            timeout_graceful_shutdown=2,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            thread.join(0.01)
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join(10)


def eventually(true: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether it becomes true within some seconds."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()
