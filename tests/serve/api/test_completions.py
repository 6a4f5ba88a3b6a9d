"""`/v1/completions` with the openai client."""

import pytest
from openai_shapes import check_shape

GREEDY = {"model": "tiny", "prompt": "is there", "temperature": 0, "max_tokens": 5}


@pytest.fixture
def create(ask):
    return lambda **arguments: ask(lambda c: c.completions.create(**{**GREEDY, **arguments}))


def texts(completion):
    return [choice.text for choice in completion.choices]


def test_a_completion_has_the_client_s_shape(create, engine):
    completion = create()
    check_shape(completion)
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 5
    assert engine.requests[0].prompt.content == "is there", "the text goes on as it is, without a template"


def test_sixteen_tokens_are_the_default(create, engine):
    create(max_tokens=None)
    assert engine.requests[0].sampling.max_tokens == 16


def test_a_stream_has_the_same_answer(create):
    whole = create(logprobs=2)
    check_shape(whole)
    chunks = create(stream=True, stream_options={"include_usage": True}, logprobs=2)
    check_shape(chunks[-1])
    choices = [c for chunk in chunks for c in chunk.choices]
    assert "".join(c.text for c in choices) == texts(whole)[0]
    assert [c.finish_reason for c in choices] == [None] * (len(choices) - 1) + ["length"]
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    offsets = [offset for c in choices if c.logprobs for offset in c.logprobs.text_offset]
    assert offsets == whole.choices[0].logprobs.text_offset
    assert len(whole.choices[0].logprobs.top_logprobs[0]) == 2


def test_prompts_of_every_form(create, engine, loaded):
    ids = loaded[0].llm.tokenizer.encode("is there")
    one = create()
    assert (
        texts(create(prompt=["is there"]))
        == texts(create(prompt=ids))
        == texts(create(prompt=[ids]))
        == texts(one)
    )
    both = create(prompt=["is there", "a blue"], n=2)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert texts(both)[:2] == texts(one) * 2
    assert both.usage.prompt_tokens == one.usage.prompt_tokens + create(prompt="a blue").usage.prompt_tokens
    assert [r.prompt.content for r in engine.requests[-5:-1]] == ["is there", "is there", "a blue", "a blue"]
