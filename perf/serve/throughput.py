"""Tokens a second of 16 live requests that come and go, against a fixed batch and against transformers.

    uv run python -m perf.serve.throughput

`fixed batch`: 16 prompts read as one batch, answers of one length, no server: `Session`. `engine`: 16 clients, each
of which asks again a random while after its answer; lengths of questions and answers vary about those of the batch.
`transformers`: `MambaForCausalLM.generate` on the same weights in batches of 16, as it can't batch such a model
continuously. Prompts are counted as time, but not as tokens. Time to the first token is in prefills: the time that an
idle engine takes from the same requests to their first token, one by one.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from perf.lib.common import parser, start
from perf.lib.contestants import models
from perf.lib.serving import (
    SHAPE_130M,
    TEMPLATE,
    Record,
    chat_request,
    closed,
    engine_of,
    load,
    percentile,
    question,
    recorded,
    served_model,
    warm,
)
from perf.lib.tables import number, ratio, table
from transformers import MambaForCausalLM

from vlm_core.generation.generate import Session
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.model import VLM
from vlm_core.text.render import Message, render
from vlm_serve.engine.request import GenerationRequest, SamplingParams
from vlm_serve.engine.settings import EngineSettings

SMOKE = (32, 2, 50280)
CLIENTS, WORDS, TOKENS = 16, 64, 96
REQUESTS = 4
"""Of each client."""
PEER_TOKENS = 16


class Rate(NamedTuple):
    """Tokens a second, and tokens a second of processor time: with one thread, a busy machine changes it little."""

    by_clock: float
    by_processor: float

    @classmethod
    def since(cls, begin: tuple[float, float], tokens: int) -> Rate:
        now = clocks()
        return cls(tokens / (now[0] - begin[0]), tokens / (now[1] - begin[1]))


def clocks() -> tuple[float, float]:
    """Seconds of the clock and of the processor."""
    return time.perf_counter(), time.process_time()


def fixed_batch(model: VLM, tokens: int) -> Rate:
    """Of a batch that begins and ends together."""
    draw = random.Random(1)
    prompts = [
        render(TEMPLATE, [Message("user", (question(draw, WORDS),))], model.llm.tokenizer)
        for _ in range(CLIENTS)
    ]
    session, begin = Session(model), clocks()
    session.prefill(prompts)
    count = sum(
        token is not None for ids in session.tokens(GenerationConfig(max_new_tokens=tokens)) for token in ids
    )
    return Rate.since(begin, count)


def asked(draw: random.Random, tokens: int) -> GenerationRequest:
    """A request like those of the batch on average."""
    sampling = SamplingParams(max_tokens=draw.randint(tokens // 2, tokens + tokens // 2), temperature=0.0)
    return chat_request(question(draw, draw.randint(WORDS // 2, WORDS + WORDS // 2)), sampling)


def live(model: VLM, tokens: int) -> tuple[Rate, list[Record]]:
    """(rate while all clients have a request, the requests after each client's first)."""
    engine, records, arrivals = (
        engine_of(model, EngineSettings(slots=CLIENTS, cache_bytes=0)),
        [],
        random.Random(2),
    )
    marks: list[tuple[tuple[float, float], int]] = []

    def mark() -> None:
        marks.append((clocks(), engine.scheduler.counters.generated_tokens))

    async def client(number: int, wait: float) -> None:
        draw = random.Random(number)
        await asyncio.sleep(wait)
        for turn in range(REQUESTS):
            record = await recorded(engine, asked(draw, tokens))
            records.extend([record] if turn else [])
            mark()
            await asyncio.sleep(draw.expovariate(20))

    pause = prefill(model, tokens, 1)

    async def measure() -> None:
        await asyncio.gather(*(client(n, arrivals.random() * 2 * CLIENTS * pause) for n in range(CLIENTS)))

    asyncio.run(measure())
    closed(engine)
    last = next(i for i in range(len(marks)) if i >= (REQUESTS - 1) * CLIENTS)  # later some have ended
    (begin, before), (end, after) = marks[CLIENTS], marks[last]
    tokens, (clock, processor) = after - before, (b - a for a, b in zip(begin, end, strict=True))
    return Rate(tokens / clock, tokens / processor), records


def prefill(model: VLM, tokens: int, count: int = 8) -> float:
    """Median seconds to the first token of an idle engine."""
    engine, draw = engine_of(model, EngineSettings(cache_bytes=0)), random.Random(3)

    async def one_by_one() -> list[float]:
        first = []
        for _ in range(count):
            request = asked(draw, tokens)
            first.append((await recorded(engine, request, cancel_after=1)).first_token)
        await engine.close(0)
        return first

    return statistics.median(asyncio.run(one_by_one()))


def peer(shape: tuple[int, int, int], tokens: int) -> Callable[[], Rate]:
    """Of transformers' `generate`."""
    _, body = models(*shape)
    with torch.device("meta"):
        model: Any = MambaForCausalLM(body.config).eval()
    model.backbone, model.lm_head.weight = body, body.embeddings.weight
    ids = torch.randint(1, shape[2], (CLIENTS, WORDS + 6))

    def run() -> Rate:
        begin = clocks()
        out = model.generate(ids, max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        return Rate.since(begin, out.numel() - ids.numel())

    return run


def main() -> None:
    arguments = parser(__doc__, rounds=3)
    arguments.add_argument("--no-peer", action="store_true", help="leave transformers out")
    options = start(arguments)
    shape, tokens = (SMOKE, 16) if options.smoke else (SHAPE_130M, TOKENS)
    model = served_model(shape)
    warm(model)
    their_rate = None if options.no_peer else peer(shape, 4 if options.smoke else PEER_TOKENS)

    def rows() -> Iterator[list[str]]:
        quotients: list[list[float]] = []
        for turn in range(options.rounds):
            batches, alone = [fixed_batch(model, tokens)], prefill(model, tokens)
            rate, records = live(model, tokens)
            batches.append(fixed_batch(model, tokens))  # before and after
            rates = [Rate(*map(statistics.mean, zip(*batches, strict=True))), rate]
            rates += [their_rate()] if their_rate else []
            first = [record.first_token / alone for record in records]
            shares = [
                by / other for other in [rates[0], *rates[2:]] for by, other in zip(rate, other, strict=True)
            ]
            quotients.append([*shares, percentile(first, 0.5), percentile(first, 0.99)])
            cells = [*map(ratio, shares), *(number(one.by_clock) for one in rates), number(1000 * alone)]
            yield [
                str(turn + 1),
                *cells,
                *(f"{share:.2f}" for share in quotients[-1][-2:]),
                str(len(records)),
                load(),
            ]
        medians = [statistics.median(values) for values in zip(*quotients, strict=True)]
        cells = [
            *map(ratio, medians[:-2]),
            *[""] * (len(peers) + 2),
            *(f"{share:.2f}" for share in medians[-2:]),
        ]
        yield ["median", *cells, "", ""]

    peers = ["fixed batch"] + (["transformers"] if their_rate else [])
    columns = [f"engine / {peer}{kind}" for peer in peers for kind in ("", ", processor time")]
    columns += [f"{name}, tokens/s" for name in ("fixed batch", "engine", *peers[1:])]
    columns += ["a prefill, ms", "first token, median, prefills", "first token, 99 %, prefills"]
    table("16 live requests", ["round", *columns, "requests", "load"], rows())


if __name__ == "__main__":
    main()
