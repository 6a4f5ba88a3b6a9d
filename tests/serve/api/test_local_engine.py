"""The interface on the engine that serves: answers in company, grammars, what is found again, broken streams."""

import asyncio
import json
from typing import Literal

import openai
import pytest
from live_server import asgi_client, eventually, live_server
from openai_shapes import check_shape
from pydantic import BaseModel
from simple_engine import SimpleEngine

from vlm_serve.api.app import create_app
from vlm_serve.engine.local import LocalEngine
from vlm_serve.engine.settings import EngineSettings

QUESTIONS = ["what color is the shape?", "is there a circle?", "a blue triangle", "yes no", "red"]
GREEDY = {"model": "vlm", "temperature": 0, "max_tokens": 8}


def chat(question):
    return {**GREEDY, "messages": [{"role": "user", "content": question}]}


@pytest.fixture
def talk(loaded, settings, one_thread):
    """`talk(conversation)` -> the result of `conversation(client, engine)`; no slot may be left in use."""
    model, spec = loaded
    engine = LocalEngine(model, spec.template, EngineSettings(slots=4, max_positions=400))

    async def run(conversation):
        async with asgi_client(create_app(engine, settings)) as http:
            client = openai.AsyncOpenAI(
                api_key="none", base_url="http://localhost/v1", http_client=http, max_retries=0
            )
            try:
                return await conversation(client, engine)
            finally:
                await engine.close(grace=5)
                assert engine.stats()["slots_in_use"] == 0

    return lambda conversation: asyncio.run(run(conversation))


def test_answers_in_company_are_those_of_the_simple_engine(talk, loaded, settings):
    async def ask_all(client, engine):
        asked = [client.chat.completions.create(**chat(question)) for question in QUESTIONS]
        completions = await asyncio.gather(*asked)
        for completion in completions:
            check_shape(completion)
        return [completion.choices[0].message.content for completion in completions]

    async def ask_in_turn():
        model, spec = loaded
        async with asgi_client(create_app(SimpleEngine(model, spec.template, "vlm"), settings)) as client:
            posts = [await client.post("/v1/chat/completions", json=chat(question)) for question in QUESTIONS]
        return [post.json()["choices"][0]["message"]["content"].strip() for post in posts]

    assert [text.strip() for text in talk(ask_all)] == asyncio.run(ask_in_turn())


def test_streams_in_company_are_the_whole_answers(talk):
    async def ask(client, question):
        whole = await client.chat.completions.create(**chat(question), logprobs=True, top_logprobs=2)
        stream = await client.chat.completions.create(**chat(question), stream=True)
        text = "".join([c.choices[0].delta.content or "" async for c in stream])
        return whole.choices[0].message.content, text

    async def ask_all(client, engine):
        return await asyncio.gather(*(ask(client, question) for question in QUESTIONS))

    for whole, streamed in talk(ask_all):
        assert whole == streamed


def test_a_seed_decides_the_answer(talk):
    sampled = {**chat(QUESTIONS[0]), "temperature": 1.0, "seed": 3}

    async def ask(client, engine):
        several = await client.chat.completions.create(**sampled, n=3)
        alone = await client.chat.completions.create(**sampled)
        return [choice.message.content for choice in several.choices], alone.choices[0].message.content

    texts, alone = talk(ask)
    assert texts[0] == alone
    assert len(set(texts)) > 1


def test_a_conversation_is_not_read_twice(talk, data_url):
    image = {"type": "input_image", "image_url": data_url("red")}
    question = [{"role": "user", "content": [image, {"type": "input_text", "text": "which color?"}]}]

    async def ask(client, engine):
        options = {"model": "vlm", "temperature": 0, "max_output_tokens": 4}
        first = await client.responses.create(**options, input=question)
        second = await client.responses.create(**options, input="and?", previous_response_id=first.id)
        return first, second

    first, second = talk(ask)
    check_shape(second)
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens


def test_an_answer_of_a_schema(talk):
    schema = {
        "type": "object",
        "properties": {"color": {"enum": ["red", "blue"]}},
        "required": ["color"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "shape", "schema": schema}}
    body = {**chat(QUESTIONS[0]), "max_tokens": 60, "response_format": form}

    async def ask(client, engine):
        completion = await client.chat.completions.create(**{**body, "temperature": 1.0})
        flat = {"format": {"type": "json_schema", "name": "shape", "schema": schema}}
        response = await client.responses.create(model="vlm", input="a", text=flat, max_output_tokens=60)
        check_shape(response)
        return completion.choices[0].message.content, response.output_text

    for text in talk(ask):
        assert json.loads(text)["color"] in ("red", "blue")


def test_the_client_parses_answers(talk):
    class Shape(BaseModel):
        color: Literal["red", "blue"]
        is_round: bool

    async def ask(client, engine):
        body = {**chat(QUESTIONS[0]), "max_tokens": 100, "temperature": 1.0}
        completion = await client.chat.completions.parse(**body, response_format=Shape)
        response = await client.responses.parse(
            model="vlm", input="a", text_format=Shape, max_output_tokens=100
        )
        async with client.chat.completions.stream(**body, response_format=Shape) as stream:
            streamed = await stream.get_final_completion()
        return (
            completion.choices[0].message.parsed,
            response.output_parsed,
            streamed.choices[0].message.parsed,
        )

    for parsed in talk(ask):
        assert isinstance(parsed, Shape)


def test_log_probabilities_without_alternatives(talk):
    async def ask(client, engine):
        return await client.chat.completions.create(**chat(QUESTIONS[0]), logprobs=True)

    tokens = talk(ask).choices[0].logprobs.content
    assert len(tokens) == 8
    assert all(token.top_logprobs == [] for token in tokens)


def test_what_the_engine_refuses(talk):
    impossible = {"name": "a", "schema": {"type": "no such type"}}
    faults = [
        {"response_format": {"type": "json_schema", "json_schema": impossible}},
        {"logit_bias": {"99999": 1}},
        {"max_tokens": 399},
        {"messages": [{"role": "user", "content": "a" * 1000}]},
    ]

    async def ask(client, engine):
        errors = []
        for fault in faults:
            with pytest.raises(openai.BadRequestError) as error:
                await client.chat.completions.create(**{**chat("a"), **fault})
            errors.append(error.value.body["message"])
        return errors

    errors = talk(ask)
    for text, message in zip(["schema", "99999", "positions", "positions"], errors, strict=True):
        assert text in message


def test_broken_streams_free_their_slots(loaded, settings, one_thread):
    """Over a socket: without one, the client gets a stream when it is complete."""
    model, spec = loaded
    engine = LocalEngine(model, spec.template, EngineSettings(slots=4, max_positions=4000))
    many = {**chat(QUESTIONS[0]), "max_tokens": 3000, "n": 4, "stream": True, "logit_bias": {"0": -100}}
    address = "http://{}:{}/v1"
    with live_server(create_app(engine, settings), settings) as server:
        client = openai.OpenAI(api_key="none", base_url=address.format(*server), max_retries=0)
        for broken in range(1, 4):
            with client.chat.completions.create(**many) as stream:
                next(iter(stream))
            assert eventually(lambda ended=4 * broken: engine.stats()["requests_cancelled_total"] == ended)
            assert eventually(lambda: engine.stats()["slots_in_use"] == 0)
        completion = client.chat.completions.create(**chat(QUESTIONS[0]))
        assert completion.choices[0].finish_reason in ("stop", "length")
        client.close()
    asyncio.run(engine.close(grace=5))
