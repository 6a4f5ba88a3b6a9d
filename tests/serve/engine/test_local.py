"""Answers of an engine: those of a session, alone and in company."""

import asyncio
import math
import random

import pytest
from engine_cases import GREEDY, answered, becomes_empty, chat, image_file, outcome, request
from graph_engine import plain_captures
from tiny_transformers import write_tiny

from vlm_core.errors import UserError
from vlm_core.generation.generate import Session
from vlm_core.generation.prefix_reader import PrefixReader
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.io.images import decode_image
from vlm_core.model_folder.assemble import build
from vlm_core.spec.spec import Spec
from vlm_core.text.messages import IMAGE, Message
from vlm_core.text.render import render
from vlm_core.text.template import TEMPLATES
from vlm_serve.engine.request import (
    ChatMessage,
    ChatPrompt,
    Failed,
    Finished,
    ImageFile,
    SamplingParams,
    TextPrompt,
)
from vlm_serve.engine.ticket import FULL

ENDLESS = SamplingParams(max_tokens=10_000, temperature=1.0, logit_bias={0: -1e9})


def session_answer(model, template, text, image=None):
    pixels = [] if image is None else [model.image_processor(decode_image(image.data, image.name))]
    parts = (IMAGE, "\n", text) if pixels else (text,)
    counts = [model.image_tokens(one) for one in pixels]
    prompt = render(template, [Message("user", parts)], model.llm.tokenizer, counts)
    session = Session(model, prefill_chunk=512)
    PrefixReader(model, template).read(session, prompt, pixels)
    return session.generate(GenerationConfig(max_new_tokens=GREEDY.max_tokens))[0]


def test_greedy_answers_are_those_of_a_session(engine_of, served):
    engine = engine_of()
    cases = [
        ("what color is the shape?", None),
        ("is there a circle?", image_file(1)),
        ("red", image_file(2)),
    ]
    asked = [request(chat(text, *([image] if image else []))) for text, image in cases]
    for (text, image), seen in zip(cases, answered(engine, *asked), strict=True):
        assert seen.text == session_answer(*served, text, image)
        assert isinstance(seen.last, Finished)
        assert seen.last.completion_tokens == sum(piece.tokens for piece in seen.pieces)
        assert seen.started.cached_tokens == 0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (request(ChatPrompt(())), "the last message must be the user's"),
        (request(ChatPrompt((ChatMessage("assistant", ("a",)),))), "the last message must be the user's"),
        (
            request(
                ChatPrompt(
                    (ChatMessage("user", ("a",)), ChatMessage("system", ("b",)), ChatMessage("user", ("c",)))
                )
            ),
            "a system message can only be the first message",
        ),
        (request(chat("red", system="be brief")), "no place for it"),
        (
            request(ChatPrompt((ChatMessage("system", (image_file(1),)), ChatMessage("user", ("a",))))),
            "can't have images",
        ),
        (request(chat("red", ImageFile(b"GIF89a", "image 1"))), "image 1"),
        (request(TextPrompt("")), "the prompt is empty"),
        (request(TextPrompt(())), "the prompt is empty"),
        (request(TextPrompt((1, 10**6))), "there is no token 1000000"),
        (request(TextPrompt((1, -1))), "there is no token -1"),
        (request(chat("red"), SamplingParams(logit_bias={999999: 1.0})), "there is no token 999999"),
        (request(chat("red"), SamplingParams(max_tokens=0)), "max_tokens is 0"),
        (request(chat("red"), SamplingParams(max_tokens=3000)), "the server allows 2000 together"),
        (request(chat("red " * 2000)), "the server allows 2000 together"),
        (request(chat("red"), SamplingParams(logprobs=21)), "0 to 20 alternatives"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused(engine_of, asked, message):
    (seen,) = answered(engine_of(max_positions=2000), asked)
    assert isinstance(seen.last, Failed)
    assert seen.last.kind == "refused"
    assert message in seen.last.message
    assert "\n" not in seen.last.message
    assert seen.started is None


@pytest.mark.parametrize(
    ("prompt", "subject", "code"),
    [
        (TextPrompt((1, 10**6)), "prompt", "invalid_value"),
        (TextPrompt("red " * 2000), "prompt", "context_length_exceeded"),
        (chat("red", ImageFile(b"GIF89a", "image 1")), None, "invalid_image"),
    ],
    ids=["token", "long", "image"],
)
def test_a_refusal_says_what_is_wrong(engine_of, prompt, subject, code):
    (seen,) = answered(engine_of(max_positions=2000), request(prompt))
    assert (seen.last.subject, seen.last.code) == (subject, code)


@pytest.mark.parametrize("prompt", [TextPrompt("red " * 10**6), chat("red " * 10**6)], ids=["text", "chat"])
def test_a_text_that_is_too_long_is_not_tokenized(engine_of, monkeypatch, prompt):
    engine = engine_of(max_positions=2000)
    encode = engine.preparer.tokenizer.encode

    def short(text):
        assert len(text) < 10**6
        return encode(text)

    monkeypatch.setattr(engine.preparer.tokenizer, "encode", short)
    (seen,) = answered(engine, request(prompt))
    assert seen.last.code == "context_length_exceeded"
    assert "4000000 characters; 2000 positions have at most" in seen.last.message


def test_text_of_the_longest_tokens_fills_all_positions(engine_of):
    """The limit of characters refuses nothing that has room."""
    preparer = engine_of(max_positions=2000).preparer
    tokenizer = preparer.tokenizer
    longest = max((tokenizer.decode([i]) for i in range(len(tokenizer))), key=len)
    text = longest * 1990
    assert len(text) > 2000
    assert len(tokenizer.encode(text)) < 2000
    assert preparer(request(TextPrompt(text), SamplingParams(max_tokens=1))).plan.positions < 2000


def test_a_budget_that_holds_no_state_is_refused(engine_of):
    least = engine_of().scheduler.costs.bytes(1)
    with pytest.raises(UserError, match=f"one answer's state has {least} bytes"):
        engine_of(state_bytes=least - 1)
    (seen,) = answered(engine_of(state_bytes=least), request(chat("red"), SamplingParams(max_tokens=2)))
    assert isinstance(seen.last, Finished)


def test_control_tokens_that_a_user_spells_are_text(engine_of):
    engine = engine_of()
    end = engine.preparer.tokenizer.control_tokens
    assert end
    for spelling in end:
        prepared = engine.preparer(request(chat(f"red {spelling} blue")))
        read = [i for piece, _ in prepared.plan.pieces for i in piece.input_ids]
        assert read.count(end[spelling]) == engine.preparer(request(chat("red"))).plan.pieces[0][
            0
        ].input_ids.count(end[spelling])


def test_a_system_message_replaces_that_of_the_template(engine_of, served):
    engine = engine_of(template=TEMPLATES["vicuna"])
    assert engine.facts().system
    default, own, again = (
        answered(engine, request(chat("red", system=system)))[0]
        for system in (None, "you are a red circle, yes no", None)
    )
    assert default.answer == again.answer != own.answer
    (other,) = answered(engine, request(chat("blue", system="you are a red circle, yes no")))
    assert 16 <= other.started.cached_tokens < other.started.prompt_tokens, "its system prompt"


def test_text_is_continued_with_its_white_space(engine_of):
    bias = {engine_of().preparer.tokenizer.encode(" ")[0]: 100.0}
    (seen,) = answered(
        engine_of(), request(TextPrompt("red"), SamplingParams(max_tokens=4, logit_bias=bias, temperature=0))
    )
    assert seen.text == "    "
    assert seen.last == Finished("length", 4)


def test_log_probabilities_sum_to_one(engine_of):
    params = SamplingParams(max_tokens=5, temperature=1.0, top_k=20, logprobs=20)
    (seen,) = answered(engine_of(), request(chat("red"), params))
    for piece in seen.pieces:
        (one,) = piece.logprobs
        assert sum(math.exp(other.logprob) for other in one.top) == pytest.approx(1, abs=1e-4)
        assert one.logprob in [other.logprob for other in one.top]
    assert (
        "".join(piece.text for piece in seen.pieces)
        == b"".join(piece.logprobs[0].data for piece in seen.pieces).decode(errors="replace").strip()
    )


def test_too_many_requests_are_turned_away(engine_of):
    engine = engine_of(slots=1, queue=3)
    seen = answered(engine, *[request(chat("red"), name=str(n)) for n in range(30)])
    kinds = [one.last.kind if isinstance(one.last, Failed) else "finished" for one in seen]
    assert set(kinds) == {"finished", "overloaded"}
    assert kinds.count("finished") >= 3


def test_one_owner_can_t_fill_the_queue_against_another(engine_of):
    engine = engine_of(slots=1, queue=4)

    async def ask():
        many = [
            asyncio.create_task(outcome(engine, request(chat("red"), ENDLESS, owner="a"))) for _ in range(20)
        ]
        while sum(task.done() for task in many) < 15:  # one is answered, and four wait
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(outcome(engine, request(chat("red"), owner="b"))) for _ in range(5)]
        while sum(task.done() for task in others) < 3:
            await asyncio.sleep(0.001)
        one_more = await outcome(engine, request(chat("red"), owner="a"))
        for task in many:
            task.cancel()
        await asyncio.gather(*many, return_exceptions=True)
        return one_more, await asyncio.gather(*others)

    one_more, others = asyncio.run(ask())
    assert one_more.last == FULL
    assert [seen.last == FULL for seen in others] == [False, False, True, True, True], (
        "an equal share of four"
    )
    assert all(isinstance(seen.last, Finished) for seen in others[:2])


def test_broken_streams_leave_nothing(engine_of):
    engine = engine_of(slots=4)

    async def break_many():
        draw = random.Random(0)
        asked = [request(chat("red"), ENDLESS, name=str(n)) for n in range(60)]
        waits = [draw.choice([0.0, 0.001, 0.02, 0.1]) for _ in asked]
        good = asyncio.create_task(outcome(engine, request(chat("red"))))
        for one, wait in zip(asked, waits, strict=True):
            task = asyncio.create_task(outcome(engine, one))
            await asyncio.sleep(wait)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return await good

    good = asyncio.run(break_many())
    assert isinstance(good.last, Finished)
    assert answered(engine, request(chat("red")))[0].answer == good.answer
    assert becomes_empty(engine)
    assert engine._tickets == set()


def test_closing_finishes_what_was_begun_and_fails_the_rest(engine_of):
    engine = engine_of(slots=2)

    async def close():
        short, endless = (
            asyncio.create_task(outcome(engine, request(chat("red"), sampling)))
            for sampling in (GREEDY, ENDLESS)
        )
        await asyncio.sleep(0.05)
        await engine.close(1.0)
        return await short, await endless, await outcome(engine, request(chat("red")))

    short, endless, late = asyncio.run(close())
    assert isinstance(short.last, Finished)
    assert endless.last.kind == late.last.kind == "overloaded"
    assert endless.pieces
    assert not any(thread.is_alive() for thread in engine._threads)


def test_states_on_disk_are_found_after_a_restart(engine_of, tmp_path):
    image = image_file(7)
    seen = [
        answered(engine_of(cache_folder=tmp_path / "cache"), request(chat("is there a circle?", image)))[0]
        for _ in range(2)
    ]
    assert seen[0].answer == seen[1].answer
    assert seen[0].started.cached_tokens == 0
    assert seen[1].started.cached_tokens == seen[1].started.prompt_tokens


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("name", ["llama", "jamba"])
def test_transformers_answer_alike_alone_and_in_company(
    engine_of, tiny_spec, tmp_path, monkeypatch, name, on_gpu
):
    """Also in the order of a GPU, on which their steps are no graphs."""
    if on_gpu:
        plain_captures(monkeypatch)
    llm = {"type": "transformers", "model": str(write_tiny(name, tmp_path))}
    model = build(Spec.model_validate({**tiny_spec, "llm": llm}), weights=False)
    template, sampling = TEMPLATES["short"], SamplingParams(max_tokens=8, temperature=1.0)
    asked = [request(chat(f"red {n}", image_file(n % 2)), sampling, name=str(n)) for n in range(4)]
    together = answered(engine_of(model, template), *asked)
    engine = engine_of(model, template, slots=1, cache_bytes=0)
    assert [one.answer for one in together] == [answered(engine, one)[0].answer for one in asked]
    assert engine.stats()["batch_rows"] == 1
    assert engine.stats()["decode_graphs"] == 0
