"""Answers of an engine: those of a session, alone and in company."""

import torch
from engine_cases import GREEDY, answered, chat, image_file, request

from vlm_core.generation.generate import Session
from vlm_core.generation.prefix_reader import PrefixReader
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.io.images import decode_image
from vlm_core.text.messages import IMAGE, Message
from vlm_core.text.render import render
from vlm_serve.engine.request import Finished


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
