"""A small OpenAI-compatible server with scripted answers, and servers that fail in every way."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


@contextmanager
def running(app: Any) -> Iterator[str]:
    """The address of `app`, served by a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        assert not thread.is_alive()


@contextmanager
def raw_server(*replies: bytes, hold: float = 0.0) -> Iterator[str]:
    """A server that sends these bytes, one reply a connection and the last again and again, and then hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    waiting = list(replies)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(0.5)
                _read_request(connection)
                connection.sendall(waiting.pop(0) if len(waiting) > 1 else waiting[0])
                time.sleep(hold)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _read_request(connection: socket.socket) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(65536)
    head, _, body = head.partition(b"\r\n\r\n")
    lengths = [
        line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    ]
    size = int(lengths[0]) if lengths else 0
    while len(body) < size:
        body += connection.recv(65536)


def reply(status: str, body: bytes | str, *headers: str, kind: str = "application/json") -> bytes:
    """The bytes of an HTTP reply, which ends with the connection."""
    head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + (body.encode() if isinstance(body, str) else body)


def event(text: str | None = None, reason: str | None = None) -> str:
    """An event of a streamed answer."""
    delta = {} if text is None else {"content": text}
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return f"data: {json.dumps({'choices': choices})}\n\n"


@dataclass
class Stub:
    """Answers by `answer(body)`: a text, or any response. `requests` and `headers` are what came."""

    answer: Callable[[dict[str, Any]], str | Response] = lambda body: f" {body['messages'][-1]['content']}!"
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "tiny", "digest": "ab" * 32}])
    key: str | None = None
    fingerprint: str | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0

    @property
    def app(self) -> Starlette:
        routes = [
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._completions, methods=["POST"]),
        ]
        return Starlette(routes=routes)

    def _refused(self, request: Request) -> Response | None:
        self.headers.append(dict(request.headers))
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        sent = request.headers.get("authorization", "none").removeprefix("Bearer ")
        return JSONResponse({"error": {"message": f"Incorrect API key provided: {sent}"}}, 401)

    async def _models(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse({"object": "list", "data": self.models})

    async def _completions(self, request: Request) -> Response:
        import anyio.to_thread

        if refusal := self._refused(request):
            return refusal
        body = await request.json()
        if body["model"] not in [model["id"] for model in self.models]:
            return JSONResponse({"error": {"message": f"no model {body['model']!r}"}}, 404)
        self.requests.append(body)
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            answer = await anyio.to_thread.run_sync(self.answer, body)
        finally:
            self._now -= 1
        if isinstance(answer, Response):
            return answer
        usage = {
            "prompt_tokens": 7,
            "completion_tokens": len(answer.split()),
            "prompt_tokens_details": {"cached_tokens": 5},
        }
        if body.get("stream"):
            return StreamingResponse(self._events(answer, usage), media_type="text/event-stream")
        message = {"role": "assistant", "content": answer}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        reply = {"choices": [choice], "usage": usage, "system_fingerprint": self.fingerprint}
        return JSONResponse(reply)

    @staticmethod
    def _events(answer: str, usage: dict[str, Any]) -> Iterator[str]:
        yield ": a comment\n\n"
        yield event("")
        for word in answer.split(" "):
            yield event(f"{word} ")
        yield event(None, "stop")
        yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"
