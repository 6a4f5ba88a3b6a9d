"""Ten thousand streams that their clients break, beside requests that go on: slots, queue and answers afterwards.

    uv run python -m perf.serve.cancelled

Clients leave before the first token, after some, or in the midst of preparing; every tenth request stays, and its
answer must be the one that it has alone.
"""

from __future__ import annotations

import asyncio
import random
import time

from perf.lib.common import parser, start
from perf.lib.serving import (
    TINY,
    chat_request,
    closed,
    engine_of,
    finished,
    load,
    noise_image,
    question,
    recorded,
    served_model,
    warm,
)
from perf.lib.tables import number, table

from vlm_serve.engine.local import LocalEngine
from vlm_serve.engine.request import GenerationRequest, SamplingParams
from vlm_serve.engine.settings import EngineSettings

STREAMS, CLIENTS, KINDS = 10_000, 48, 20
STAYS = SamplingParams(max_tokens=6, temperature=0.8, seed=1)
BROKEN = SamplingParams(max_tokens=1000, temperature=0.8)


def staying(number: int) -> GenerationRequest:
    draw = random.Random(number)
    return chat_request(question(draw, 12), STAYS, noise_image(number % 3) if number % 4 == 0 else None)


async def broken(engine: LocalEngine, streams: int, expected: dict[int, str]) -> tuple[int, int]:
    """(streams that were broken, answers of others that were wrong)."""
    draw, counts = random.Random(0), [0, 0]

    async def client(share: int) -> None:
        for _ in range(share):
            if draw.random() < 0.1:
                number = draw.randrange(KINDS)
                counts[1] += (await recorded(engine, staying(number))).text != expected[number]
                continue
            request = chat_request(question(draw, draw.randint(1, 60)), BROKEN)
            kind = draw.random()
            if kind < 0.5:
                await recorded(engine, request, cancel_after=draw.randint(0, 3))
            else:
                task = asyncio.create_task(recorded(engine, request))
                await asyncio.sleep(draw.choice([0.0, 0.0, 0.001, 0.02]))
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            counts[0] += 1

    shares = [streams * 10 // 9 // CLIENTS + 1] * CLIENTS
    await asyncio.gather(*map(client, shares))
    return counts[0], counts[1]


def main() -> None:
    options = start(parser(__doc__, rounds=1))
    model = served_model(TINY)
    warm(model)
    engine = engine_of(model, EngineSettings(cache_bytes=0, queue=2 * CLIENTS))

    async def alone() -> dict[int, str]:
        return {number: (await recorded(engine, staying(number))).text for number in range(KINDS)}

    async def measured() -> list[str]:
        expected, begin = await alone(), time.perf_counter()
        count, wrong = await broken(engine, 200 if options.smoke else STREAMS, expected)
        seconds = time.perf_counter() - begin
        await asyncio.sleep(1)  # for the last step
        stats = engine.stats()
        good = all([finished(await recorded(engine, staying(number))) for number in range(3)])
        left = [stats["slots_in_use"], stats["queue_requests"], stats["state_bytes"], len(engine._tickets)]
        failed = stats["requests_failed_total"]
        return [*map(str, (count, wrong, int(failed), *map(int, left), good)), number(seconds), load()]

    columns = [
        "broken streams",
        "wrong answers",
        "failed",
        "slots in use",
        "waiting",
        "state bytes",
        "tickets",
    ]
    table("Broken streams", [*columns, "answers go on", "seconds", "load"], iter([asyncio.run(measured())]))
    closed(engine)


if __name__ == "__main__":
    main()
