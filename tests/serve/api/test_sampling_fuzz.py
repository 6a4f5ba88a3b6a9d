"""Any sampling that the interface lets pass is one that the engine can do."""

import asyncio
import math

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from live_server import asgi_client

from vlm_serve.api.app import create_app
from vlm_serve.api.guard.settings import ServerSettings
from vlm_serve.engine.local import LocalEngine
from vlm_serve.engine.settings import EngineSettings

REAL = {"allow_nan": False}
SAMPLING = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.just(0) | st.floats(0, 2, **REAL),
        "top_p": st.floats(0, 1, **REAL),
        "top_k": st.integers(-1, 2**31 - 1),
        "min_p": st.floats(0, 1, **REAL),
        "seed": st.integers(-(2**63), 2**63 - 1),
        "repetition_penalty": st.floats(0.01, 10, **REAL),
        "frequency_penalty": st.floats(-2, 2, **REAL),
        "presence_penalty": st.floats(-2, 2, **REAL),
        "logit_bias": st.dictionaries(
            st.integers(0, 299).map(str), st.floats(-100, 100, **REAL), max_size=300
        ),
        "stop": st.lists(st.text(min_size=1, max_size=4), max_size=16),
        "n": st.integers(1, 3),
        "logprobs": st.just(True),
        "stream": st.booleans(),
    },
)


@pytest.fixture(scope="module")
def send(loaded, one_thread, tiny_folder):
    model, spec = loaded
    engine = LocalEngine(model, spec.template, EngineSettings(slots=2, max_positions=100))
    app = create_app(engine, ServerSettings(model=tiny_folder))
    with asyncio.Runner() as runner:
        client = asgi_client(app)
        yield lambda body: runner.run(client.post("/v1/chat/completions", json=body))
        runner.run(client.aclose())
        runner.run(engine.close(grace=5))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(sampling=SAMPLING)
@example({"temperature": 5e-324})
@example({"temperature": 2, "min_p": 1, "top_p": 0, "top_k": 1, "n": 3, "logprobs": True})
@example({"repetition_penalty": 0.01, "temperature": 1})
@example({"logit_bias": {str(i): -100 for i in range(300)}})
@example({"top_p": 5e-324, "temperature": 2})
def test_any_sampling(send, sampling):
    more = {"top_logprobs": 20} if "logprobs" in sampling else {}
    messages = [{"role": "user", "content": "is there a circle?"}]
    response = send({"model": "vlm", "messages": messages, "max_tokens": 4, **sampling, **more})
    if response.status_code == 400:
        assert "logit_bias: there is no token" in response.text, "the tokenizer has fewer ids"
        return
    assert response.status_code == 200, response.text
    if sampling.get("stream"):
        assert response.text.endswith("data: [DONE]\n\n")
        return
    for choice in response.json()["choices"]:
        assert choice["finish_reason"] in ("stop", "length")
        for token in (choice["logprobs"] or {"content": ()})["content"]:
            assert math.isfinite(token["logprob"])
            assert token["logprob"] <= 1e-6
            assert 1 <= len(token["top_logprobs"]) <= 20, "those that can be drawn"
