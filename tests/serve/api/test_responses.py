"""`/v1/responses` with the openai client."""

import asyncio

import openai
import pytest
from live_server import asgi_client
from openai_shapes import check_shape
from scripted_engine import ScriptedEngine

from vlm_serve.api.app import create_app

GREEDY = {"model": "tiny", "input": "what color is the shape?", "temperature": 0, "max_output_tokens": 6}
LOGPROBS = ["message.output_text.logprobs"]


@pytest.fixture
def create(ask):
    return lambda **arguments: ask(lambda c: c.responses.create(**{**GREEDY, **arguments}))


def test_a_response_has_the_client_s_shape(create, ask):
    response = create(metadata={"a": "b"}, top_logprobs=2, include=LOGPROBS, user="somebody")
    check_shape(response)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert (response.temperature, response.top_p, response.metadata) == (0, 1, {"a": "b"})
    chat = [{"role": "user", "content": GREEDY["input"]}]
    same = ask(lambda c: c.chat.completions.create(model="tiny", messages=chat, temperature=0, max_tokens=6))
    assert response.output_text == same.choices[0].message.content
    assert response.usage.input_tokens == same.usage.prompt_tokens
    assert len(response.output[0].content[0].logprobs) == 6
    assert len(response.output[0].content[0].logprobs[0].top_logprobs) == 2


def test_a_response_that_ends_by_itself_is_completed(create):
    text = create().output_text
    response = create(extra_body={"top_k": 1, "seed": 3}, temperature=None, max_output_tokens=None)
    check_shape(response)
    assert response.output_text.startswith(text), "of one token there is no choice"


def test_a_stream_tells_every_step(create):
    whole = create()
    events = create(stream=True, include=LOGPROBS, top_logprobs=1)
    for event in events:
        check_shape(event)
    kinds = [event.type for event in events if event.type != "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(d.delta for d in deltas) == whole.output_text == events[-1].response.output_text
    assert sum(len(d.logprobs) for d in deltas) == 6
    assert events[-1].response.id == events[0].response.id
    assert events[-1].response.usage.output_tokens == 6


def test_the_client_s_own_stream_helper(settings):
    """It wants a response that ended by itself."""

    async def run():
        async with asgi_client(create_app(ScriptedEngine(), settings)) as http:
            client = openai.AsyncOpenAI(api_key="none", base_url="http://localhost/v1", http_client=http)
            async with client.responses.stream(model="scripted", input="count") as stream:
                return await stream.get_final_response()

    response = asyncio.run(run())
    assert (response.status, response.output_text) == ("completed", "one two")
    assert response.completed_at is not None


def test_items_of_every_kind(create, engine, data_url):
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "b", "annotations": []}],
        },
        {
            "role": "user",
            "content": [
                {"type": "input_image", "image_url": data_url("red"), "detail": "auto"},
                {"type": "input_text", "text": "c"},
            ],
        },
    ]
    check_shape(create(input=items))
    messages = engine.requests[0].prompt.messages
    assert [m.role for m in messages] == ["user", "assistant", "user"]
    assert messages[1].parts == ("b",)
    image, *rest = messages[2].parts
    assert image.name == "input[2].content[0].image_url"
    assert rest == ["c"]


def test_a_response_is_continued(create, ask, engine, data_url):
    image = {"type": "input_image", "image_url": data_url("red")}
    first = create(input=[{"role": "user", "content": [image, {"type": "input_text", "text": "color?"}]}])
    second = create(input="and now?", previous_response_id=first.id)
    check_shape(second)
    assert second.previous_response_id == first.id
    messages = engine.requests[-1].prompt.messages
    assert [m.role for m in messages] == ["user", "assistant", "user"]
    assert messages[0] == engine.requests[0].prompt.messages[0]
    assert messages[1].parts == (first.output_text,)
    assert second.usage.input_tokens_details.cached_tokens > 0, "the image is not read again"
    streamed = create(input="and now?", previous_response_id=first.id, stream=True)
    assert streamed[-1].response.output_text == second.output_text
    third = create(input="and then?", previous_response_id=streamed[-1].response.id)
    assert third.usage.input_tokens > second.usage.input_tokens


def test_instructions_are_of_one_response_alone(settings):
    """A system message of the input stays in the conversation."""
    engine = ScriptedEngine()
    system = {"role": "developer", "content": [{"type": "input_text", "text": "be kind"}]}
    question = {"role": "user", "content": "a"}

    async def run():
        async with asgi_client(create_app(engine, settings)) as client:
            previous = None
            for fields in ({"instructions": "be short"}, {}, {"instructions": "be long"}):
                body = {"model": "scripted", "input": "a", "previous_response_id": previous, **fields}
                previous = (await client.post("/v1/responses", json=body)).json()["id"]
            body = {"model": "scripted", "input": [system, question]}
            previous = (await client.post("/v1/responses", json=body)).json()["id"]
            body = {"model": "scripted", "input": "b", "previous_response_id": previous}
            await client.post("/v1/responses", json=body)
            return await client.post("/v1/responses", json={**body, "instructions": "be short"})

    refused = asyncio.run(run())
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "instructions")
    roles = ["".join(m.role[0] for m in request.prompt.messages) for request in engine.requests]
    assert roles == ["su", "uau", "suauau", "su", "suau"]
    systems = [request.prompt.messages[0].parts for request in engine.requests]
    assert systems == [("be short",), ("a",), ("be long",), ("be kind",), ("be kind",)]


def test_a_response_is_retrieved_and_deleted(create, ask):
    response = create()
    assert ask(lambda c: c.responses.retrieve(response.id)) == response
    assert ask(lambda c: c.responses.delete(response.id)) is None
    with pytest.raises(openai.NotFoundError, match="There is no response"):
        ask(lambda c: c.responses.retrieve(response.id))
    with pytest.raises(openai.NotFoundError):
        ask(lambda c: c.responses.delete(response.id))


def test_a_response_is_not_stored_if_not_wanted(create):
    response = create(store=False)
    with pytest.raises(openai.BadRequestError, match="previous_response_id: there is no response") as error:
        create(previous_response_id=response.id)
    assert error.value.code == "previous_response_not_found"
