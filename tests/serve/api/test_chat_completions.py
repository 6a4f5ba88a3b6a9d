"""`/v1/chat/completions` with the openai client."""

from dataclasses import replace

import openai
import pytest
from live_server import call
from openai_shapes import check_shape
from scripted_engine import ScriptedEngine

from vlm_serve.api import conversation
from vlm_serve.api.routes import chat
from vlm_serve.engine.request import VideoFile

QUESTION = [{"role": "user", "content": "what color is the shape?"}]
GREEDY = {"model": "tiny", "messages": QUESTION, "temperature": 0, "max_tokens": 6}


def image_part(url):
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.fixture
def create(ask):
    """The chat completion of these arguments, `GREEDY` unless they say otherwise."""
    return lambda **arguments: ask(lambda c: c.chat.completions.create(**{**GREEDY, **arguments}))


def texts(completion):
    return [choice.message.content for choice in completion.choices]


def streamed(chunks, number=0):
    choices = [c for chunk in chunks for c in chunk.choices if c.index == number]
    return "".join(c.delta.content or "" for c in choices), [c.finish_reason for c in choices][-1]


def test_an_answer_has_the_client_s_shape(create, engine):
    completion = create()
    check_shape(completion)
    assert completion.model == "tiny"
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 6
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + 6
    assert completion.system_fingerprint.endswith(engine.facts().digest[:12])
    assert engine.active == 0 == engine.cancelled


def test_the_fingerprint_is_that_of_the_model_that_answers(create, engine, monkeypatch):
    """With --reload another one may be served once the images have been fetched."""
    read = conversation.read_conversation

    async def read_and_reload(*arguments):
        facts = replace(engine.facts(), digest="cd" * 32)
        monkeypatch.setattr(engine, "facts", lambda: facts)
        return await read(*arguments)

    monkeypatch.setattr(chat, "read_conversation", read_and_reload)
    assert create().system_fingerprint == f"fp_{'cd' * 6}"


def test_a_stream_has_the_same_answer(create):
    whole = create(logprobs=True, top_logprobs=2)
    chunks = create(stream=True, stream_options={"include_usage": True}, logprobs=True, top_logprobs=2)
    for chunk in chunks:
        check_shape(chunk)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert streamed(chunks) == (texts(whole)[0], "length")
    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 6
    tokens = [t for c in chunks for choice in c.choices if choice.logprobs for t in choice.logprobs.content]
    assert [t.token for t in tokens] == [t.token for t in whole.choices[0].logprobs.content]


def test_usage_in_a_stream_is_sent_only_if_asked_for(create):
    assert all(chunk.usage is None and chunk.choices for chunk in create(stream=True))


def test_what_was_read_before_is_found_again(create):
    first, second = create(), create()
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert second.usage.prompt_tokens_details.cached_tokens == first.usage.prompt_tokens
    assert texts(first) == texts(second)


def test_several_answers_have_seeds_of_their_own(create, engine):
    completion = create(n=3, temperature=1, seed=5)
    check_shape(completion)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert len(set(texts(completion))) > 1
    assert texts(create(n=3, temperature=1, seed=5)) == texts(completion)
    assert texts(create(temperature=1, seed=5)) == texts(completion)[:1]
    assert completion.usage.completion_tokens > 2 * 6, "the sum of all"
    assert completion.usage.prompt_tokens == create().usage.prompt_tokens, "a prompt counts once"
    chunks = create(n=3, temperature=1, seed=5, stream=True)
    assert [streamed(chunks, i)[0] for i in range(3)] == texts(completion)
    seeds = [request.sampling.seed for request in engine.requests]
    assert seeds[:3] == seeds[3:6]
    assert len({r.id for r in engine.requests}) == len(engine.requests)


def test_without_a_seed_every_request_has_another(create, engine):
    create(temperature=1)
    create(temperature=1)
    assert len({request.sampling.seed for request in engine.requests}) == 2


def test_all_sampling_fields_reach_the_engine(create, engine):
    extra = {"top_k": 5, "min_p": 0.25, "repetition_penalty": 1.5}
    bias = {"65": 3, "66": -100}
    create(
        temperature=0.5,
        top_p=0.75,
        seed=7,
        stop=["x", "yz"],
        logit_bias=bias,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        logprobs=True,
        top_logprobs=3,
        user="somebody",
        extra_body=extra,
    )
    sampling = engine.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.75, 5, 0.25)
    assert (sampling.seed, sampling.stop, sampling.max_tokens) == (7, ("x", "yz"), 6)
    assert sampling.logit_bias == {65: 3.0, 66: -100.0}
    penalties = sampling.frequency_penalty, sampling.presence_penalty, sampling.repetition_penalty
    assert penalties == (0.5, -0.5, 1.5)
    assert (sampling.logprobs, sampling.grammar) == (3, None)


def test_nulls_are_defaults(create, engine):
    names = ["temperature", "top_p", "seed", "stop", "logit_bias", "frequency_penalty", "n", "logprobs"]
    create(**dict.fromkeys(names), top_logprobs=None, tools=None, max_completion_tokens=None)
    sampling = engine.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.stop, sampling.logprobs) == (1.0, 1.0, (), None)


def test_limits_of_tokens(create):
    assert create(max_tokens=2).usage.completion_tokens == 2
    assert create(max_tokens=None, max_completion_tokens=3).usage.completion_tokens == 3
    assert create(max_tokens=3, max_completion_tokens=3).usage.completion_tokens == 3


def test_a_stop_string_is_not_sent(create):
    text = texts(create())[0]
    stop = text[-2]
    stopped = create(stop=stop)
    assert stopped.choices[0].finish_reason == "stop"
    assert stop not in texts(stopped)[0]
    assert streamed(create(stop=[stop], stream=True)) == (texts(stopped)[0], "stop")


def test_a_bias_forbids_a_token(create):
    first = create(logprobs=True, top_logprobs=1).choices[0].logprobs.content[0]
    other = create(logprobs=True, top_logprobs=1, logit_bias={str(i): -100 for i in range(256)})
    assert other.choices[0].logprobs.content[0].bytes != first.bytes


def test_response_formats(create, engine, monkeypatch):
    monkeypatch.setattr(engine, "_read", _without_grammar(engine._read))
    schema = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "integer"}}}
    create(response_format={"type": "text"})
    create(response_format={"type": "json_object"})
    named = {"name": "shape", "schema": schema, "strict": True, "description": "a shape"}
    create(response_format={"type": "json_schema", "json_schema": named})
    kinds = [(g.kind, g.schema) if (g := r.sampling.grammar) else None for r in engine.requests]
    in_order = '{"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "integer"}}}'
    assert kinds == [None, ("json_object", ""), ("json_schema", in_order)]


def _without_grammar(read):
    from dataclasses import replace

    return lambda request: read(replace(request, sampling=replace(request.sampling, grammar=None)))


def test_images_are_read_in_order(create, engine, data_url):
    parts = [image_part(data_url("red")), {"type": "text", "text": "which"}, {"type": "text", "text": "?"}]
    content = [*parts, image_part(data_url("blue"))]
    completion = create(messages=[{"role": "user", "content": content}])
    check_shape(completion)
    (message,) = engine.requests[0].prompt.messages
    names = [part if isinstance(part, str) else part.name for part in message.parts]
    places = [f"messages[0].content[{i}].image_url.url" for i in (0, 3)]
    assert names == [places[0], "which", "?", places[1]]
    swapped = [content[-1], *content[1:-1], content[0]]
    other = create(messages=[{"role": "user", "content": swapped}])
    assert other.usage.prompt_tokens == completion.usage.prompt_tokens
    assert other.usage.prompt_tokens_details.cached_tokens < completion.usage.prompt_tokens


def test_a_video_is_read_if_the_model_has_videos(settings):
    engine = ScriptedEngine(videos=True)
    url = "data:video/mp4;base64,AAAA"
    parts = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": "what?"}]
    body = {"model": "scripted", "messages": [{"role": "user", "content": parts}]}
    assert call(engine, settings, "/v1/chat/completions", body).status_code == 200
    video, text = engine.requests[0].prompt.messages[0].parts
    assert video == VideoFile(b"\0\0\0", "messages[0].content[0].video_url.url")
    assert text == "what?"


def test_an_image_is_asked_about_as_by_vlm_chat(create, loaded, data_url, tmp_path):
    """The same image and question, the same answer."""
    import base64

    from vlm_core.generation.conversation import Conversation
    from vlm_core.generation.sampling import GenerationConfig

    model, spec = loaded
    conversation = Conversation(model, spec.template)
    (tmp_path / "red.png").write_bytes(base64.b64decode(data_url("red").partition(",")[2]))
    conversation.show(tmp_path / "red.png")
    expected = "".join(conversation.ask("which color?", GenerationConfig(max_new_tokens=6)))
    content = [image_part(data_url("red")), {"type": "text", "text": "which color?"}]
    assert texts(create(messages=[{"role": "user", "content": content}])) == [expected]


def test_a_conversation_goes_on_with_the_client_s_own_objects(create, engine):
    first = create()
    messages = [*QUESTION, first.choices[0].message, {"role": "user", "content": "and now?"}]
    second = create(messages=messages)
    assert second.usage.prompt_tokens > first.usage.prompt_tokens
    assert [m.role for m in engine.requests[1].prompt.messages] == ["user", "assistant", "user"]
    assert engine.requests[1].prompt.messages[1].parts == (texts(first)[0],)


def test_the_synchronous_client_over_a_socket(server):
    with openai.OpenAI(api_key="none", base_url="http://{}:{}/v1".format(*server), max_retries=0) as client:
        whole = client.chat.completions.create(**GREEDY)
        for _ in range(2):  # on one connection
            chunks = list(client.chat.completions.create(**GREEDY, stream=True))
            assert streamed(chunks)[0] == texts(whole)[0]
        raw = client.chat.completions.with_raw_response.create(**GREEDY)
        assert raw.headers["x-request-id"].startswith("req_")
        assert raw.headers["content-type"] == "application/json"
        with pytest.raises(openai.BadRequestError, match="top_logprobs: needs logprobs to be true") as error:
            client.chat.completions.create(**GREEDY, top_logprobs=2)
        assert error.value.param == "top_logprobs"


def test_parsed_answers_of_a_schema(server, engine, monkeypatch):
    """`client.chat.completions.parse` sends a schema that pydantic wrote; this engine gives no answer to it."""
    from pydantic import BaseModel

    class Shape(BaseModel):
        color: str
        corners: int

    client = openai.OpenAI(api_key="none", base_url="http://{}:{}/v1".format(*server), max_retries=0)
    with client, pytest.raises(openai.BadRequestError, match="no grammars"):
        client.chat.completions.parse(**GREEDY, response_format=Shape)
    assert '"corners"' in engine.requests[0].sampling.grammar.schema
