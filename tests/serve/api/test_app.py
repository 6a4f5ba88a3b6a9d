"""Models, health, metrics, unknown paths, and who may see what."""

import asyncio
import subprocess
import sys
from dataclasses import asdict

import openai
import pytest
from live_server import asgi_client, call, live_server
from prometheus_client.parser import text_string_to_metric_families
from scripted_engine import ScriptedEngine

from vlm_core.errors import UserError
from vlm_serve.api.app import create_app
from vlm_serve.api.guard.keys import add_key
from vlm_serve.engine.request import Failed, Finished, Piece, Started

CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "a"}]}
PATH = "/v1/chat/completions"


def talk(app, conversation):
    """The result of `conversation(client)`."""

    async def run():
        async with asgi_client(app) as client:
            return await conversation(client)

    return asyncio.run(run())


def get(app, path, method="GET", **headers):
    return talk(app, lambda client: client.request(method, path, headers=headers))


@pytest.fixture
def scripted(settings):
    return create_app(ScriptedEngine(), settings)


def test_models(settings, scripted):
    with live_server(scripted, settings) as address:
        client = openai.OpenAI(api_key="none", base_url="http://{}:{}/v1".format(*address), max_retries=0)
        with client:
            models = client.models.list()
            (model,) = models.data
            facts = asdict(ScriptedEngine().facts())
            assert facts.pop("name") == model.id
            assert model.model_extra == facts, "and nothing else"
            assert model.id == "scripted"
            assert client.models.retrieve("scripted") == model
            with pytest.raises(openai.NotFoundError, match="the model 'gpt-4/5' does not exist") as error:
                client.models.retrieve("gpt-4/5")
            assert error.value.code == "model_not_found"


def test_health(scripted):
    response = get(scripted, "/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok", "model": "scripted"})


def test_health_without_a_worker_and_after_a_change(settings, monkeypatch):
    engine = ScriptedEngine()
    monkeypatch.setattr(engine, "stats", lambda: {"workers_ready": 0, "model_folder_changed": 1.0})
    response = get(create_app(engine, settings), "/health")
    expected = {"status": "unavailable", "model": "scripted", "model_folder_changed": True}
    assert (response.status_code, response.json()) == (503, expected)


def test_health_tells_of_workers_that_are_missing(settings, monkeypatch):
    engine = ScriptedEngine()
    monkeypatch.setattr(engine, "stats", lambda: {"workers": 2, "workers_ready": 1})
    response = get(create_app(engine, settings), "/health")
    expected = {"status": "degraded", "model": "scripted", "workers": 2, "workers_ready": 1}
    assert (response.status_code, response.json()) == (200, expected)
    monkeypatch.setattr(engine, "failure", lambda: UserError("/a/path: lost"))
    response = get(create_app(engine, settings), "/health")
    assert (response.status_code, response.json()) == (503, {**expected, "status": "unavailable"})


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/nothing"), ("GET", "/v2"), ("GET", "/v1/models/"), ("POST", "/v1/chat/completions/")],
)
def test_unknown_paths(scripted, method, path):
    response = get(scripted, path, method)
    assert response.status_code == 404
    assert response.json()["error"]["type"] in ("invalid_request_error", "not_found_error")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", PATH), ("PUT", PATH), ("POST", "/v1/models"), ("DELETE", "/health")]
)
def test_wrong_methods(scripted, method, path):
    response = get(scripted, path, method)
    assert response.status_code == 405
    assert response.json()["error"]["message"] == f"{method} is not possible for {path}."
    assert response.headers["allow"]


def samples(text):
    """{(name, labels): value} of the exposition format."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics(settings):
    events = (Started(10, 4), Piece("a", 1), Piece("b", 1), Piece("", 0), Finished("length", 2))
    app = create_app(ScriptedEngine(events), settings)

    async def use(client):
        await client.post(PATH, json=CHAT)
        await client.post(PATH, json={**CHAT, "n": 2, "stream": True})
        await client.post(PATH, json={**CHAT, "n": 0})
        await client.get("/v1/responses/resp_1")
        await client.get("/v1/responses/resp_2")
        await client.get("/anything")
        return await client.get("/metrics")

    response = talk(app, use)
    assert response.headers["content-type"].startswith("text/plain")
    values = samples(response.text)
    requests = {key[1:]: value for key, value in values.items() if key[0] == "vlm_serve_requests_total"}
    assert requests == {
        (("route", PATH), ("status", "200")): 2,
        (("route", PATH), ("status", "400")): 1,
        (("route", "/v1/responses/{id}"), ("status", "404")): 2,
        (("route", "other"), ("status", "404")): 1,
    }
    assert values["vlm_serve_answers_total", ("reason", "length")] == 3
    assert values["vlm_serve_prompt_tokens_total", ("source", "cache")] == 12
    assert values["vlm_serve_prompt_tokens_total", ("source", "read")] == 18
    assert values["vlm_serve_generated_tokens_total",] == 6
    assert values["vlm_serve_time_to_first_token_seconds_count",] == 3
    assert values["vlm_serve_inter_token_seconds_count",] == 3
    assert values["vlm_serve_engine_slots_used",] == 0
    assert values["vlm_serve_engine_requests_total",] == 3


def test_failed_and_cancelled_answers_are_counted(settings):
    short = settings.model_copy(update={"answer_timeout": 0.1})
    hanging = create_app(ScriptedEngine((Started(1, 0), None)), short)
    crashing = create_app(
        ScriptedEngine((Started(1, 0), Failed("crashed", "the worker has ended"))), settings
    )

    async def use(client):
        await client.post(PATH, json={**CHAT, "n": 2})
        return (await client.get("/metrics")).text

    values = samples(talk(hanging, use))
    assert values["vlm_serve_answers_total", ("reason", "cancelled")] == 2
    values = samples(talk(crashing, use))
    assert values["vlm_serve_answers_total", ("reason", "crashed")] == 1
    assert values["vlm_serve_answers_total", ("reason", "cancelled")] == 1, "the other one"


def test_two_applications_count_for_themselves(settings, scripted):
    call(ScriptedEngine(), settings, PATH, CHAT)
    assert "vlm_serve_answers_total{" not in get(scripted, "/metrics").text


def test_keys_own_their_requests_and_responses(settings, tmp_path):
    """The key's name is the owner of cached states, and of stored responses."""
    keys = {name: add_key(tmp_path / "keys.json", name) for name in ("one", "two")}
    engine = ScriptedEngine()
    app = create_app(engine, settings.model_copy(update={"keys_file": tmp_path / "keys.json"}))
    body = {"model": "scripted", "input": "a"}

    async def use(client):
        one, two = ({"authorization": f"Bearer {key}"} for key in keys.values())
        refused = await client.post("/v1/responses", json=body)
        first = (await client.post("/v1/responses", json=body, headers=one)).json()["id"]
        further = {**body, "previous_response_id": first}
        statuses = [
            refused.status_code,
            (await client.post("/v1/responses", json=further, headers=two)).status_code,
            (await client.get(f"/v1/responses/{first}", headers=two)).status_code,
            (await client.get(f"/v1/responses/{first}", headers=one)).status_code,
            (await client.post("/v1/responses", json=further, headers=one)).status_code,
            (await client.get("/health")).status_code,
            (await client.get("/")).status_code,
            (await client.get("/metrics")).status_code,
        ]
        return statuses

    assert talk(app, use) == [401, 400, 404, 200, 200, 200, 200, 401]
    assert [request.owner for request in engine.requests] == ["one", "one"]


def test_the_page_is_served(scripted):
    response = get(scripted, "/")
    assert response.headers["content-type"].startswith("text/html")


def test_the_interface_needs_no_torch():
    code = "import sys, vlm_serve.api.app; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
