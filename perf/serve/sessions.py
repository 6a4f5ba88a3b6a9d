"""A thousand live sessions: resident memory against weights and slots × state, and that it doesn't grow.

    uv run python -m perf.serve.sessions

A tiny model whose states are large beside the rest. The baseline is the process with the model and sessions that have
answered, without the slots that the engine keeps; the rest is what the sessions add. `growth per session` is to be one
state.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import aclosing

import torch
from perf.lib.common import parser, start
from perf.lib.serving import TEMPLATE, chat_request, closed, load, neox, recorded, rss, warm
from perf.lib.tables import number, table

from vlm_connectors.configs import MLPConfig
from vlm_core.model import VLM
from vlm_encoders.configs import TimmConfig
from vlm_llms.mamba.mamba import MambaLM
from vlm_serve.engine.local import LocalEngine
from vlm_serve.engine.memory import compact_allocator
from vlm_serve.engine.request import Failed, Piece, SamplingParams
from vlm_serve.engine.settings import EngineSettings

WIDTH, LAYERS, STATE = 128, 16, 64
SESSIONS, STEPS = 1000, 5
MB = 2**20


def tiny_model() -> VLM:
    """Few weights and large states."""
    tower = TimmConfig(model="vit_tiny_patch16_224", image_size=64).build(weights=False)
    tokenizer = neox()
    llm = MambaLM(WIDTH, LAYERS, 50280, STATE, load_tokenizer=lambda: tokenizer)
    return VLM(tower, MLPConfig().build(tower.dim, llm.dim), llm).eval()


async def grown(engine: LocalEngine, sessions: int, steps: int) -> tuple[list[int], int]:
    """Resident bytes after each of the steps that all sessions take, and the slots in use."""
    sampling, counts = SamplingParams(max_tokens=10_000, temperature=0.0), [0] * sessions

    async def session(number: int) -> None:
        async with aclosing(engine.submit(chat_request(f"what {number}", sampling))) as events:
            async for event in events:
                if isinstance(event, Piece):
                    counts[number] += 1
                elif isinstance(event, Failed):
                    raise SystemExit(f"a session failed: {event}")

    tasks = [asyncio.create_task(session(number)) for number in range(sessions)]
    sizes = []
    for step in range(1, steps + 1):
        while min(counts) < 2 * step:
            await asyncio.sleep(0.05)
        sizes.append(rss())
    slots = int(engine.stats()["slots_in_use"])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    while engine.stats()["slots_in_use"]:
        await asyncio.sleep(0.01)
    return sizes, slots


def main() -> None:
    options = start(parser(__doc__, rounds=1))
    compact_allocator()  # as a worker process does
    sessions = 40 if options.smoke else SESSIONS
    model = tiny_model()
    warm(model)
    settings = EngineSettings(slots=sessions, queue=sessions, cache_bytes=0)
    engine = LocalEngine(model, TEMPLATE, settings)
    asyncio.run(recorded(engine, chat_request("what", SamplingParams(max_tokens=20, temperature=0.0))))
    asyncio.run(grown(engine, 16, 2))
    gc.collect()
    state, kept = engine.scheduler.costs.constant, sum(group.rows for group in engine.scheduler.groups)
    base = rss() - kept * state
    weights = sum(p.nbytes for p in model.parameters())

    def rows() -> Iterator[list[str]]:
        sizes, slots = asyncio.run(grown(engine, sessions, STEPS))
        for step, size in enumerate(sizes, 1):
            expected = base + slots * state
            yield [
                str(2 * step),
                str(slots),
                number(weights / MB),
                number(state / MB),
                number(base / MB),
                number(size / MB),
                f"{100 * (size / expected - 1):+.1f} %",
                number((size - base) / slots / state),
                load(),
            ]

    columns = [
        "tokens of each session",
        "slots in use",
        "weights, MiB",
        "a state, MiB",
        "RSS without sessions, MiB",
        "RSS, MiB",
        "against RSS without + slots × state",
        "growth per session, states",
        "load",
    ]
    with torch.inference_mode():
        table(f"{sessions} live sessions", columns, rows())
    closed(engine)


if __name__ == "__main__":
    main()
