"""`/v1/completions` with the openai client, and its log probabilities."""

import pytest
from openai_shapes import check_shape

from vlm_serve.api.answers.logprobs import TextLogprobs, token_logprob
from vlm_serve.engine.request import TokenLogprob

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


def token(data, logprob=-1.0, top=()):
    return TokenLogprob(data.decode(errors="replace"), data, logprob, top)


def test_offsets_count_characters_of_the_text():
    """A character of several tokens is one; a control token is no text."""
    control = TokenLogprob("<|end|>", b"", -1.0)
    day, eur = "日".encode(), "€".encode()
    tokens = [token(b"a"), *map(token, (day[:1], day[1:2], day[2:])), control, token(eur[:1]), token(b"bc")]
    tokens += [token(eur[1:] + b"d"), token(b"e")]
    text = b"".join(each.data for each in tokens).decode(errors="replace")
    whole = TextLogprobs().add(tokens)
    assert text[:5] == "a日\ufffdbc"
    assert whole["text_offset"] == [0, 1, 1, 1, 2, 2, 3, 5, len(text) - 1]
    parts = TextLogprobs()
    assert [at for each in tokens for at in parts.add([each])["text_offset"]] == whole["text_offset"]


def test_parts_of_characters_have_names_of_their_own():
    first, second = token(b"\xe6", -0.5), token(b"\xe2", -0.7)
    logprobs = TextLogprobs().add([token(b"\xe6", -0.5, (first, second))])
    assert logprobs["tokens"] == ["bytes:\\xe6"]
    assert logprobs["top_logprobs"] == [{"bytes:\\xe6": -0.5, "bytes:\\xe2": -0.7}]


def test_the_token_is_among_its_alternatives_with_its_own_log_probability():
    top = (token(b"a", -0.1), token(b"b", -0.2))
    unlikely = token(b"c", -5.0, top)
    assert TextLogprobs().add([unlikely])["top_logprobs"] == [{"a": -0.1, "b": -0.2, "c": -5.0}]


def test_a_control_token_has_no_bytes():
    assert token_logprob(TokenLogprob("<|end|>", b"", -1.0))["bytes"] == []
