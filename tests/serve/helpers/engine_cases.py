"""Requests to an engine, and what came of them."""

import asyncio
import io
import random
import time
from dataclasses import dataclass, field

from PIL import Image

from vlm_serve.engine.request import (
    ChatMessage,
    ChatPrompt,
    Failed,
    Finished,
    GenerationRequest,
    ImageFile,
    Piece,
    SamplingParams,
    Started,
)

GREEDY = SamplingParams(max_tokens=12, temperature=0.0)


@dataclass
class Outcome:
    """The events of a request."""

    started: Started | None = None
    pieces: list[Piece] = field(default_factory=list)
    last: Finished | Failed | None = None

    @property
    def text(self):
        return "".join(piece.text for piece in self.pieces)

    @property
    def answer(self):
        """Everything that must not depend on other requests."""
        return self.text, self.last, [piece.logprobs for piece in self.pieces]


def image_file(seed, name="image 1", size=40):
    """A PNG of noise."""
    draw = random.Random(seed)
    image = Image.frombytes("RGB", (size, size), draw.randbytes(3 * size * size))
    file = io.BytesIO()
    image.save(file, "PNG")
    return ImageFile(file.getvalue(), name)


def chat(text, *images, before=(), system=None):
    """A prompt of one question, perhaps after others."""
    messages = [ChatMessage("system", (system,))] if system is not None else []
    for question, answer in before:
        messages += [ChatMessage("user", (question,)), ChatMessage("assistant", (answer,))]
    return ChatPrompt((*messages, ChatMessage("user", (*images, text))))


def request(prompt, sampling=GREEDY, owner="", name="r"):
    return GenerationRequest(name, prompt, sampling, owner)


async def outcome(engine, asked, cancel_after=None):
    """The events of a request, which is cancelled after some pieces."""
    result, events = Outcome(), engine.submit(asked)
    async for event in events:
        if isinstance(event, Started):
            assert result.started is None
            assert not result.pieces
            result.started = event
        elif isinstance(event, Piece):
            result.pieces.append(event)
            if cancel_after is not None and len(result.pieces) >= cancel_after:
                break
        else:
            assert result.last is None
            result.last = event
    await events.aclose()
    return result


def answered(engine, *requests):
    """The outcomes of requests that are asked at once; the engine is left open."""

    async def ask():
        return await asyncio.gather(*(outcome(engine, one) for one in requests))

    return asyncio.run(ask())


def assert_answers_are_those_alone(together, requests, alone_engine):
    """`together`: outcomes, by name, of those requests that were not cancelled; `alone_engine` has one slot."""
    assert len(together) >= 15
    for asked in requests:
        if asked.id in together:
            (alone,) = answered(alone_engine, asked)
            assert not isinstance(alone.last, Failed), alone.last
            assert together[asked.id].answer == alone.answer, asked


def becomes_empty(engine, seconds=20):
    """Whether no request is left; the last event of an answer comes just before its slot is free."""
    end = time.monotonic() + seconds
    names = ("slots_in_use", "queue_requests", "state_bytes")
    while any(engine.stats()[name] for name in names) and time.monotonic() < end:
        time.sleep(0.01)
    return not any(engine.stats()[name] for name in names)


def closed(engine):
    asyncio.run(engine.close(0))
