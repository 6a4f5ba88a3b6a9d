"""A small stand-in for an OpenAI-compatible server: canned answers, chosen by the words of the last question."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from vlm_serve.page import routes

MODEL = {
    "id": "tiny",
    "object": "model",
    "images": True,
    "videos": True,
    "system": True,
}


@dataclass
class StubApi:
    """What the server answers and what it was asked. `answers`: words of a question -> the answer's text."""

    models: list[dict[str, Any]] = field(default_factory=lambda: [dict(MODEL)])
    answers: dict[str, str] = field(default_factory=dict)
    key: str | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    cancelled: int = 0
    address: str = ""

    def reset(self) -> None:
        self.__init__(address=self.address)

    def refusal(self, request: Request) -> Response | None:
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return _error(401, "The API key is missing or wrong.")

    async def list_models(self, request: Request) -> Response:
        return self.refusal(request) or JSONResponse({"object": "list", "data": self.models})

    async def chat(self, request: Request) -> Response:
        """`fail` in the question: an error before the answer; other words: see `_chunks`."""
        if refused := self.refusal(request):
            return refused
        body = await request.json()
        self.requests.append(body)
        question = _text(body["messages"][-1])
        if "fail" in question:
            return _error(400, "The question <b>can't</b> be answered: it has 5,000 tokens.")
        answer = self.answers.get(question, f"You said: {question}")
        if not body.get("stream"):
            message = {"role": "assistant", "content": answer}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return JSONResponse({**_head(body, "chat.completion"), "choices": [choice]})
        return StreamingResponse(self._chunks(body, question, answer), media_type="text/event-stream")

    async def _chunks(self, body: dict[str, Any], question: str, answer: str) -> AsyncIterator[bytes]:
        """`slow`: pieces for ever, until the client leaves; `paced`: pieces with pauses; `break`: the connection ends
        early; `crash`: an error.
        """
        head = _head(body, "chat.completion.chunk")
        try:
            yield _event({**head, "choices": [_choice({"role": "assistant", "content": ""})]})
            while "slow" in question:
                yield _event({**head, "choices": [_choice({"content": "more "})]})
                await asyncio.sleep(0.02)
            for start in range(0, len(answer), 7):
                yield _event({**head, "choices": [_choice({"content": answer[start : start + 7]})]})
                await asyncio.sleep(0.1 if "paced" in question else 0)
            if "break" in question:
                return
            if "crash" in question:
                yield _event({"error": {"message": "The worker ended.", "type": "server_error"}})
                return
            finish = "length" if body.get("max_tokens") == 3 else "stop"
            yield _event({**head, "choices": [_choice({}, finish)]})
            cached = {"cached_tokens": 1200}
            usage = {"prompt_tokens": 1260, "completion_tokens": 9, "prompt_tokens_details": cached}
            yield _event({**head, "choices": [], "usage": usage})
            yield b"data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def stub_app(stub: StubApi) -> Starlette:
    api = [
        Route("/v1/models", stub.list_models),
        Route("/v1/chat/completions", stub.chat, methods=["POST"]),
    ]
    return Starlette(routes=[*api, *routes(), Mount("/prefix", routes=[*api, *routes()])])


@contextmanager
def running(stub: StubApi) -> Iterator[StubApi]:
    """The stub on a free port of this machine, in a thread; `stub.address` ends in a slash."""
    config = uvicorn.Config(stub_app(stub), port=0, log_level="warning", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        thread.join(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    stub.address = f"http://127.0.0.1:{port}/"
    try:
        yield stub
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")


def _head(body: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": body["model"]}


def _choice(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish}


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, status)
