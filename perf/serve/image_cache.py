"""Sixteen questions on one image: requests a second with the state cache against without it.

    uv run python -m perf.serve.image_cache

Answers of a few tokens, as of yes-or-no questions; 729 visual tokens. `first time` reads the image once within the 16,
`known` has read it before. All answers are the same, which is checked; each round has another image.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Iterator

from perf.lib.common import parser, start
from perf.lib.serving import (
    SHAPE_130M,
    chat_request,
    closed,
    engine_of,
    load,
    noise_image,
    question,
    recorded,
    served_model,
    warm,
)
from perf.lib.tables import number, ratio, table

from vlm_core.model import VLM
from vlm_serve.engine.local import LocalEngine
from vlm_serve.engine.request import GenerationRequest, SamplingParams
from vlm_serve.engine.settings import EngineSettings

SMOKE = (32, 2, 50280)
QUESTIONS, WORDS, TOKENS = 16, 8, 2
SIDE, SMOKE_SIDE = 432, 64


def seconds_of(engine: LocalEngine, requests: list[GenerationRequest]) -> tuple[float, list[str]]:
    """All at once -> (seconds, answers)."""

    async def ask() -> list[str]:
        return [one.text for one in await asyncio.gather(*(recorded(engine, one) for one in requests))]

    begin = time.perf_counter()
    texts = asyncio.run(ask())
    return time.perf_counter() - begin, texts


def requests_on(seed: int, side: int) -> list[GenerationRequest]:
    draw, image = random.Random(seed), noise_image(seed, side)
    sampling = SamplingParams(max_tokens=TOKENS, temperature=0.0)
    return [chat_request(question(draw, WORDS), sampling, image) for _ in range(QUESTIONS)]


def measured(model: VLM, seed: int, side: int) -> dict[str, float]:
    """Seconds of each way."""
    known = requests_on(seed, side)
    plain, cached = engine_of(model, EngineSettings(cache_bytes=0)), engine_of(model)
    other = chat_request("what", SamplingParams(max_tokens=1), noise_image(seed, side))
    times, answers = {}, {}
    times["without"], answers["without"] = seconds_of(plain, known)
    times["first time"], answers["first time"] = seconds_of(cached, known)
    closed(cached)
    again = engine_of(model)
    asyncio.run(recorded(again, other))
    times["known"], answers["known"] = seconds_of(again, known)
    for engine in (plain, again):
        closed(engine)
    if len(set(map(tuple, answers.values()))) > 1:
        raise SystemExit(f"the answers differ: {answers}")
    return times


def main() -> None:
    options = start(parser(__doc__, rounds=3))
    side = SMOKE_SIDE if options.smoke else SIDE
    model = served_model(SMOKE if options.smoke else SHAPE_130M, side)
    warm(model)

    def rows() -> Iterator[list[str]]:
        quotients = []
        for seed in itertools.islice(itertools.count(1), options.rounds):
            times = measured(model, seed, side)
            rates = {name: QUESTIONS / seconds for name, seconds in times.items()}
            quotients.append([rates[name] / rates["without"] for name in ("first time", "known")])
            yield [str(seed), *map(ratio, quotients[-1]), *map(number, rates.values()), load()]
        yield ["median", *(ratio(statistics.median(c)) for c in zip(*quotients, strict=True)), "", "", "", ""]

    columns = ["round", "first time / without", "known / without"]
    columns += [f"{name}, requests/s" for name in ("without", "first time", "known")]
    table("Sixteen questions on one image", [*columns, "load"], rows())


if __name__ == "__main__":
    main()
