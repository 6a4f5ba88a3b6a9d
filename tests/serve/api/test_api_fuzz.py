"""Bodies that nobody thought of: an answer or a clear refusal, never an error of the server."""

import asyncio
import json
import unicodedata

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from live_server import asgi_client
from scripted_engine import ScriptedEngine

from vlm_serve.api.app import create_app
from vlm_serve.api.guard.settings import ServerSettings
from vlm_serve.api.schema.chat import ChatBody
from vlm_serve.api.schema.completions import CompletionBody
from vlm_serve.api.schema.responses import ResponseBody

BODIES = {"/v1/chat/completions": ChatBody, "/v1/completions": CompletionBody, "/v1/responses": ResponseBody}
WORDS = [
    "scripted",
    "user",
    "assistant",
    "system",
    "text",
    "image_url",
    "input_text",
    "input_image",
    "json_schema",
    "json_object",
    "message",
    "data:image/png;base64,AAAA",
    "auto",
    "none",
    "a\ud7ff\x00b",
    "@list",
    "",
]
KEYS = [
    "role",
    "content",
    "type",
    "text",
    "image_url",
    "url",
    "name",
    "schema",
    "json_schema",
    "format",
    "detail",
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(WORDS)
    | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
TEXT = st.builds(lambda text: {"type": "text", "text": text}, st.text(max_size=5))
CONTENT = st.text(max_size=5) | st.lists(TEXT | VALUES, max_size=3) | VALUES
MESSAGES = st.lists(
    st.builds(lambda role, content: {"role": role, "content": content}, st.sampled_from(WORDS[1:4]), CONTENT)
    | VALUES,
    max_size=4,
)


@pytest.fixture(scope="module")
def send(tiny_folder):
    """`send(path, content)` -> the response of one application."""
    app = create_app(ScriptedEngine(videos=True), ServerSettings(model=tiny_folder))
    headers = {"content-type": "application/json"}
    with asyncio.Runner() as runner:
        client = asgi_client(app)

        def post(path, content):
            return runner.run(client.post(path, content=content, headers=headers))

        yield post
        runner.run(client.aclose())


def check(response):
    """Answered, or refused in OpenAI's shape with one sentence that JSON can hold."""
    if response.status_code == 200:
        return
    assert response.status_code in (400, 404, 413, 415), response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert not any(unicodedata.category(character) == "Cc" for character in error["message"])
    assert 0 < len(error["message"]) < 600


FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


@FUZZ
@given(path=st.sampled_from(sorted(BODIES)), data=st.data())
def test_any_values_of_known_fields(send, path, data):
    names = st.sampled_from(sorted(BODIES[path].model_fields))
    fields = data.draw(st.dictionaries(names | st.text(max_size=4), VALUES, max_size=3))
    right = {"model": "scripted", "messages": [{"role": "user", "content": "a"}], "prompt": "a", "input": "a"}
    right = {name: value for name, value in right.items() if name in BODIES[path].model_fields}
    check(send(path, json.dumps({**right, **fields}).encode()))


@FUZZ
@given(messages=MESSAGES)
def test_any_messages(send, messages):
    check(send("/v1/chat/completions", json.dumps({"model": "scripted", "messages": messages}).encode()))
    check(send("/v1/responses", json.dumps({"model": "scripted", "input": messages}).encode()))


@FUZZ
@given(
    path=st.sampled_from(sorted(BODIES)),
    content=st.binary(max_size=40) | VALUES.map(lambda v: json.dumps(v).encode()),
)
@example("/v1/completions", b'{"model": "scripted", "prompt": "\\u0000"}')
@example("/v1/completions", b'{"model": "scripted", "prompt": "a", "seed": -0}')
@example("/v1/completions", b'{"model": "scripted", "prompt": "a", "temperature": -0.0}')
@example("/v1/completions", b'{"model": "scripted", "prompt": "a", "temperature": 1e-320}')
def test_any_bytes(send, path, content):
    check(send(path, content))


@FUZZ
@given(cut=st.integers(0, 200), flipped=st.integers(0, 200), byte=st.integers(0, 255))
def test_damaged_bodies(send, cut, flipped, byte):
    body = {
        "model": "scripted",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        "n": 2,
    }
    content = bytearray(
        json.dumps({**body, "stop": ["x"], "logit_bias": {"3": 1.5}, "stream": True}).encode()
    )
    content[flipped % len(content)] = byte
    check(send("/v1/chat/completions", bytes(content[: len(content) - cut % 20])))
