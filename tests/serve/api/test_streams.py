"""Clients that go away, that read slowly, that send several requests at once; answers that fail on the way."""

import asyncio
import json
import socket

import openai
import pytest
from live_server import asgi_client, call, eventually, live_server, sse_events
from openai_shapes import check_shape
from scripted_engine import ScriptedEngine

from vlm_serve.api.app import create_app
from vlm_serve.engine.request import Failed, Finished, Piece, Started

CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "count"}]}
PATHS = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "scripted", "prompt": "count"},
    "/v1/responses": {"model": "scripted", "input": "count"},
}
HANGS = (Started(3, 0), Piece("one ", 1), None)
STARTED = Started(3, 0)


def request_bytes(body, path="/v1/chat/completions"):
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(content) + content


@pytest.fixture
def live(settings):
    """`live(engine)` -> (host, port)."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda engine: stack.enter_context(live_server(create_app(engine, settings), settings))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_cancels_its_answer(live, path, stream):
    engine = ScriptedEngine(HANGS)
    with socket.create_connection(live(engine)) as connection:
        connection.sendall(request_bytes({**PATHS[path], "stream": stream}, path))
        if stream:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 OK")
        assert eventually(lambda: engine.active == 1)
    assert eventually(lambda: engine.active == 0)
    assert engine.closed == 1


def test_a_client_that_goes_away_cancels_all_of_its_answers(live):
    engine = ScriptedEngine(HANGS)
    with socket.create_connection(live(engine)) as connection:
        connection.sendall(request_bytes({**CHAT, "n": 4, "stream": True}))
        assert eventually(lambda: engine.active == 4)
    assert eventually(lambda: engine.active == 0)


def test_a_client_that_goes_away_while_it_waits(live):
    """Before the engine has begun, nothing was sent."""
    engine = ScriptedEngine((None,))
    with socket.create_connection(live(engine)) as connection:
        connection.sendall(request_bytes({**CHAT, "stream": True}))
        assert eventually(lambda: engine.active == 1)
    assert eventually(lambda: engine.active == 0)


def test_closing_the_client_s_stream_cancels(live):
    engine = ScriptedEngine(HANGS)
    address = live(engine)
    with openai.OpenAI(api_key="none", base_url="http://{}:{}/v1".format(*address)) as client:
        with client.chat.completions.create(**CHAT, stream=True) as stream:
            next(iter(stream))
            assert engine.active == 1
        assert eventually(lambda: engine.active == 0)


def test_many_broken_streams_leave_nothing(settings):
    """Without a socket: each client goes after its first event."""
    engine = ScriptedEngine(HANGS)
    app = create_app(engine, settings)

    async def broken_stream():
        content = json.dumps({**CHAT, "stream": True}).encode()
        gone, parts = asyncio.Event(), [{"type": "http.request", "body": content, "more_body": False}]

        async def receive():
            if parts:
                return parts.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message.get("body"):
                gone.set()

        headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "headers": headers,
            "query_string": b"",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
        }
        await app(scope, receive, send)

    async def all_of_them():
        await asyncio.gather(*(broken_stream() for _ in range(300)))
        return [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]

    assert asyncio.run(all_of_them()) == []
    assert (engine.active, engine.closed) == (0, 300)


def test_a_slow_reader_is_not_read_ahead_of(settings):
    """An event is made when the one before was taken: nothing piles up."""
    made = 0

    async def events():
        nonlocal made
        for _ in range(1000):
            made += 1
            yield b"data: x\n\n"

    async def slow():
        from vlm_serve.api.transport.sse import send_events

        taken = 0

        async def send(message):
            nonlocal taken
            taken += bool(message.get("body"))
            assert made <= taken + 1
            await asyncio.sleep(0)

        await send_events(send, events())
        return taken

    assert asyncio.run(slow()) == 1000


def test_several_answers_wait_for_a_slow_reader(settings):
    """The queue between the answers and their reader is bounded."""
    from vlm_serve.api.answers.events import WAITING, numbered
    from vlm_serve.engine.request import GenerationRequest, SamplingParams, TextPrompt

    told = []

    class Engine(ScriptedEngine):
        async def submit(self, request):
            for i in range(1000):
                told.append(i)
                yield Piece("a", 1)
            yield Finished("length", 1000)

    async def read():
        requests = [GenerationRequest(str(i), TextPrompt("a"), SamplingParams()) for i in range(2)]
        events = numbered(Engine(), requests)
        await anext(events)
        for _ in range(100):
            await asyncio.sleep(0)
        await events.aclose()

    asyncio.run(read())
    assert len(told) <= 2 * WAITING + 4


def test_requests_on_one_connection(live):
    """Sent at once, without waiting for answers: these come whole and in order."""
    engine = ScriptedEngine()
    with socket.create_connection(live(engine)) as connection:
        bodies = [CHAT, {**CHAT, "stream": True}, {**CHAT, "modle": 1}, CHAT]
        last = request_bytes(bodies.pop()).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        connection.sendall(b"".join(map(request_bytes, bodies)) + last)
        received = b""
        while part := connection.recv(65536):
            received += part
    heads = [line for line in received.split(b"\r\n") if b"HTTP/1.1 " in line]
    assert [head.rpartition(b"HTTP/1.1 ")[2][:3] for head in heads] == [b"200", b"200", b"400", b"200"]
    assert received.count(b'"content":"one two"') == 2
    assert received.count(b"data: [DONE]") == 1
    assert engine.active == 0


def test_the_asynchronous_client_over_a_socket(live):
    """Ten streams at once, each whole."""
    address = live(ScriptedEngine())

    async def read(client):
        stream = await client.chat.completions.create(**CHAT, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def read_all():
        base_url = "http://{}:{}/v1".format(*address)
        async with openai.AsyncOpenAI(api_key="none", base_url=base_url, max_retries=0) as client:
            return await asyncio.gather(*(read(client) for _ in range(10)))

    assert asyncio.run(read_all()) == ["one two"] * 10


def test_identical_requests_at_once(settings):
    engine = ScriptedEngine()

    async def ask_all():
        async with asgi_client(create_app(engine, settings)) as client:
            return await asyncio.gather(*(client.post("/v1/chat/completions", json=CHAT) for _ in range(50)))

    answers = asyncio.run(ask_all())
    assert {a.json()["choices"][0]["message"]["content"] for a in answers} == {"one two"}
    assert len({a.json()["id"] for a in answers}) == 50


FAILURES = {
    "refused": (Failed("refused", "the prompt is too long"), 400, "invalid_request_error"),
    "overloaded": (Failed("overloaded", "no slot is free"), 503, "server_error"),
    "crashed": (Failed("crashed", "the worker has ended"), 500, "server_error"),
}


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 2])
def test_a_failure_before_the_first_event_has_a_status(settings, path, kind, stream, n):
    failed, status, error_type = FAILURES[kind]
    several = {"n": n} if path != "/v1/responses" else {}
    response = call(ScriptedEngine((failed,)), settings, path, {**PATHS[path], **several, "stream": stream})
    assert response.status_code == status
    assert response.json()["error"]["message"] == f"{failed.message[0].upper()}{failed.message[1:]}."
    assert response.json()["error"]["type"] == error_type
    assert ("retry-after" in response.headers) == (kind == "overloaded")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_failure_in_a_stream_is_an_event(settings, path):
    events = (STARTED, Piece("one ", 1), Failed("crashed", "the worker has ended"))
    response = call(ScriptedEngine(events), settings, path, {**PATHS[path], "stream": True})
    *_, last = sse_events(response.text)
    assert last == {
        "error": {
            "message": "The worker has ended.",
            "type": "server_error",
            "param": None,
            "code": "server_error",
        }
    }
    whole = call(ScriptedEngine(events), settings, path, PATHS[path])
    assert (whole.status_code, whole.json()) == (500, last)


def test_the_client_raises_a_failure_in_a_stream(live):
    address = live(ScriptedEngine((STARTED, Piece("one ", 1), Failed("crashed", "the worker has ended"))))
    with openai.OpenAI(api_key="none", base_url="http://{}:{}/v1".format(*address)) as client:
        stream = iter(client.chat.completions.create(**CHAT, stream=True))
        assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "one "]
        with pytest.raises(openai.APIError, match="The worker has ended"):
            next(stream)


def test_a_response_that_fails_in_its_stream(live):
    address = live(ScriptedEngine((STARTED, Piece("one ", 1), Failed("crashed", "the worker has ended"))))
    with openai.OpenAI(api_key="none", base_url="http://{}:{}/v1".format(*address)) as client:
        events = list(client.responses.create(model="scripted", input="count", stream=True))
        for event in events:
            check_shape(event)
        assert [event.type for event in events[-2:]] == ["error", "response.failed"]
        assert events[-1].response.error.message == "The worker has ended."
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(events[0].response.id)


@pytest.mark.parametrize(
    "events", [(STARTED, ValueError("a secret path")), (ValueError("a secret path"),), (STARTED,)]
)
def test_a_bug_of_the_engine_is_a_clear_failure(settings, events, caplog):
    """Also an iterator that ends without a last event; what was raised is in the log alone."""
    response = call(ScriptedEngine(events), settings, "/v1/chat/completions", CHAT)
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "try again" in response.json()["error"]["message"]


def test_an_answer_that_takes_too_long(settings):
    short = settings.model_copy(update={"answer_timeout": 0.1})
    engine = ScriptedEngine(HANGS)
    assert call(engine, short, "/v1/chat/completions", CHAT).status_code == 504
    response = call(engine, short, "/v1/chat/completions", {**CHAT, "stream": True})
    assert sse_events(response.text)[-1]["error"]["code"] == "answer_timeout"
    assert engine.active == 0
