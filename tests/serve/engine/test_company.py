"""An answer is the same alone and in company, with and without a cache, whoever leaves early."""

import asyncio
import random

import pytest
from engine_cases import (
    answered,
    assert_answers_are_those_alone,
    becomes_empty,
    chat,
    image_file,
    outcome,
    request,
)

from vlm_serve.engine.request import Finished, Grammar, SamplingParams, TextPrompt

QUESTIONS = ["what color is the shape?", "red", "is there a circle? yes no " * 6, "a blue triangle " * 40]


def drawn_request(draw, name):
    """A request of any kind."""
    grammar = Grammar("json_object") if draw.random() < 0.1 else None
    sampling = SamplingParams(
        max_tokens=draw.choice([1, 3, 8, 20]),
        temperature=draw.choice([0.0, 0.0, 0.7, 1.5]),
        top_p=draw.choice([1.0, 0.8]),
        top_k=draw.choice([0, 0, 20]),
        min_p=draw.choice([0.0, 0.02]),
        seed=draw.randrange(1000),
        stop=draw.choice([(), (), ("e",), ("the", "is")]),
        logit_bias=draw.choice([{}, {}, {70: 3.0, 71: -100.0}]),
        frequency_penalty=draw.choice([0.0, 0.5]),
        presence_penalty=draw.choice([0.0, 0.5]),
        repetition_penalty=draw.choice([1.0, 1.3]),
        logprobs=draw.choice([None, None, 0, 3]),
        grammar=grammar,
    )
    text = draw.choice(QUESTIONS)
    if draw.random() < 0.2:
        prompt = TextPrompt(draw.choice([text, tuple(draw.randrange(300) for _ in range(9))]))
    else:
        images = [image_file(draw.randrange(3)) for _ in range(draw.choice([0, 0, 1, 2]))]
        before = [(draw.choice(QUESTIONS[:2]), "red")] * draw.choice([0, 0, 1])
        prompt = chat(text, *images, before=before)
    return request(prompt, sampling, owner=draw.choice("abc"), name=name)


async def arriving(engine, requests, draw):
    """All requests at random times, each third cancelled after a while -> outcomes of the others by name."""

    async def one(asked, wait, cancel_after):
        await asyncio.sleep(wait)
        return await outcome(engine, asked, cancel_after)

    plans = [
        (asked, draw.random() * 0.5, draw.choice([None, None, draw.randrange(1, 6)])) for asked in requests
    ]
    outcomes = await asyncio.gather(*(one(*plan) for plan in plans))
    return {
        asked.id: seen
        for (asked, _, cancelled), seen in zip(plans, outcomes, strict=True)
        if cancelled is None
    }


@pytest.mark.parametrize("seed", range(3))
def test_company_changes_no_answer(engine_of, seed):
    draw = random.Random(seed)
    requests = [drawn_request(draw, str(n)) for n in range(40)]
    alone_engine = engine_of(slots=1, cache_bytes=0, prefill_chunk=64)
    together_engine = engine_of(slots=draw.choice([5, 16, 40]), prefill_chunk=64)
    together = asyncio.run(arriving(together_engine, requests, draw))
    assert_answers_are_those_alone(together, requests, alone_engine)
    assert becomes_empty(together_engine)
    assert together_engine.stats()["cache_hits_total"] > 5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_depend_on_everything(engine_of, temperature):
    """Otherwise equal answers would say little."""
    sampling = SamplingParams(max_tokens=20, temperature=temperature)
    asked = [request(chat(QUESTIONS[n // 2 % 4], image_file(n % 2)), sampling) for n in range(8)]
    outcomes = answered(engine_of(), *asked)
    assert all(isinstance(seen.last, Finished) for seen in outcomes)
    assert len({seen.text for seen in outcomes}) == 8
