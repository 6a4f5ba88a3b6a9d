"""Videos of requests: encoded in pieces, between which others get their tokens."""

import asyncio

import pytest
from engine_cases import answered, becomes_empty, chat, outcome, request
from videos import video

from vlm_serve.engine.request import Finished, SamplingParams, VideoFile

ENDLESS = SamplingParams(max_tokens=10_000, temperature=1.0, logit_bias={0: -1e9})
SAMPLED = SamplingParams(max_tokens=12, temperature=1.0, seed=5, logprobs=3)
FRAMES = 8
"""Of a video, where the spec says nothing."""


@pytest.fixture(scope="module")
def clip():
    return VideoFile(video(frames=30), "video 1")


@pytest.fixture
def encoded(served, monkeypatch):
    """The numbers of frames that are encoded together."""
    model, _ = served
    counts, encode = [], model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda x: counts.append(len(x)) or encode(x))
    return counts


def test_others_get_tokens_while_a_video_is_encoded(engine_of, served, monkeypatch, clip):
    model, _ = served
    engine, encode = engine_of(image_chunk=3), model.encode_images
    frames, tokens = [], []

    def counted(pixels):
        frames.append(len(pixels))
        tokens.append(engine.scheduler.counters.generated_tokens)
        return encode(pixels)

    monkeypatch.setattr(model, "encode_images", counted)

    async def ask():
        other = asyncio.create_task(outcome(engine, request(chat("red"), ENDLESS)))
        while not engine.stats()["generated_tokens_total"]:
            await asyncio.sleep(0.001)
        seen = await outcome(engine, request(chat("is there a circle?", clip)))
        assert not other.done()
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)
        return seen

    assert isinstance(asyncio.run(ask()).last, Finished)
    assert frames == [3, 3, 2]
    assert tokens[0] < tokens[1] < tokens[2], "one token of the other answer at least"
    assert becomes_empty(engine)


def test_the_pieces_change_no_answer(engine_of, encoded, clip):
    asked = [request(chat("is there a circle?", clip), SAMPLED), request(chat("red", clip), SAMPLED)]
    whole = [seen.answer for seen in answered(engine_of(image_chunk=FRAMES), *asked)]
    assert encoded == [FRAMES], "the second request finds it in the cache"
    assert whole[0] != whole[1]
    for chunk in (1, 3, 100):
        engine = engine_of(image_chunk=chunk)
        encoded.clear()
        assert [seen.answer for seen in answered(engine, *asked)] == whole
        assert sum(encoded) == FRAMES
        assert max(encoded) == min(chunk, FRAMES)
        (seen,) = answered(engine, asked[0])
        assert seen.answer == whole[0]
        assert seen.started.cached_tokens == seen.started.prompt_tokens
    (alone,) = answered(engine_of(image_chunk=3, cache_bytes=0), asked[1])
    assert alone.answer == whole[1]


def test_a_cancelled_request_encodes_no_further(engine_of, served, monkeypatch, clip):
    """Its client goes away between two pieces."""
    model, _ = served
    engine, encode, tasks, frames = engine_of(image_chunk=1), model.encode_images, [], []

    async def ask():
        loop = asyncio.get_running_loop()

        def counted(pixels):
            frames.append(len(pixels))
            if len(frames) == 2:

                async def cancel():
                    tasks[0].cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

                asyncio.run_coroutine_threadsafe(cancel(), loop).result()
            return encode(pixels)

        monkeypatch.setattr(model, "encode_images", counted)
        tasks.append(asyncio.create_task(outcome(engine, request(chat("red", clip)))))
        while not tasks[0].done():
            await asyncio.sleep(0.001)

    asyncio.run(ask())
    assert becomes_empty(engine)
    assert frames == [1, 1]
