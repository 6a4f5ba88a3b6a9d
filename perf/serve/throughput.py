"""Tokens a second of 16 live requests that come and go, against a fixed batch and against transformers.

    uv run python -m perf.serve.throughput

`fixed batch`: 16 prompts read as one batch, answers of one length, no server: `Session`. `engine`: 16 clients, each
of which asks again a random while after its answer; lengths of questions and answers vary about those of the batch.
`generate`: of transformers' `MambaForCausalLM`, in batches of 16 with answers of the same length. `transformers serve`:
a server of its own process, which can't batch such a model; it needs fastapi, as `uv run --with fastapi python -m …`
brings it. Prompts are counted as time, but not as tokens: `positions read for a token` shows that the engine reads as
many as the batch, 0.71. Time to the first token is in prefills: the time that an idle engine takes from the same
requests to their first token, one by one. In the last row its percentiles are those of the requests of all rounds: of
one round, the 99th is one of the two longest waits.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import NamedTuple

from perf.lib.common import parser, start
from perf.lib.serving import (
    SHAPE_130M,
    TEMPLATE,
    Rate,
    Record,
    chat_request,
    clocks,
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

from vlm_core.generation.generate import Session
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.model import VLM
from vlm_core.text.render import Message, render
from vlm_serve.engine.request import GenerationRequest, SamplingParams
from vlm_serve.engine.settings import EngineSettings

SMOKE = (32, 2, 50280)
CLIENTS, WORDS, TOKENS = 16, 64, 96
REQUESTS = 8
"""Of each client."""
SHARES = (0.5, 0.99)
"""Percentiles of the time to the first token."""
Peers = dict[str, Callable[[], Rate]]


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
    return Rate.since(begin, clocks(), count)


def asked(draw: random.Random, tokens: int) -> GenerationRequest:
    """A request like those of the batch on average."""
    sampling = SamplingParams(max_tokens=draw.randint(tokens // 2, tokens + tokens // 2), temperature=0.0)
    return chat_request(question(draw, draw.randint(WORDS // 2, WORDS + WORDS // 2)), sampling)


def live(model: VLM, tokens: int, rest: float = 0.05) -> tuple[Rate, float, list[Record]]:
    """(rate while all clients have a request, positions read for a token, the requests after each client's first).

    `rest`: seconds between an answer and the client's next request, on average.
    """
    engine, records, arrivals = (
        engine_of(model, EngineSettings(slots=CLIENTS, cache_bytes=0)),
        [],
        random.Random(2),
    )
    marks: list[tuple[tuple[float, float], tuple[int, int]]] = []

    def mark() -> None:
        counters = engine.scheduler.counters
        marks.append((clocks(), (counters.generated_tokens, counters.prefill_positions)))

    async def client(number: int, wait: float) -> None:
        draw = random.Random(number)
        await asyncio.sleep(wait)
        for turn in range(REQUESTS):
            record = await recorded(engine, asked(draw, tokens))
            records.extend([record] if turn else [])
            mark()
            await asyncio.sleep(draw.expovariate(1 / rest))

    pause, _ = prefill(model, tokens, 1)

    async def measure() -> None:
        await asyncio.gather(*(client(n, arrivals.random() * 2 * CLIENTS * pause) for n in range(CLIENTS)))

    asyncio.run(measure())
    closed(engine)
    (begin, begun), (end, ended) = (
        marks[CLIENTS],
        marks[(REQUESTS - 1) * CLIENTS],
    )  # later some have no request
    generated, read = (after - before for before, after in zip(begun, ended, strict=True))
    return Rate.since(begin, end, generated), read / generated, records


def prefill(model: VLM, tokens: int, count: int = 8) -> tuple[float, float]:
    """Median seconds to the first token of an idle engine, by the clock and of processor time."""
    engine, draw = engine_of(model, EngineSettings(cache_bytes=0)), random.Random(3)

    async def one_by_one() -> list[tuple[float, float]]:
        first = []
        for _ in range(count):
            request = asked(draw, tokens)
            first.append((await recorded(engine, request, cancel_after=1)).first_token)
        await engine.close(0)
        return first

    clock, processor = zip(*asyncio.run(one_by_one()), strict=True)
    return statistics.median(clock), statistics.median(processor)


def contestants(options: Namespace, shape: tuple[int, int, int], tokens: int, stack: ExitStack) -> Peers:
    """What is measured besides the engine, by name."""
    if options.no_peer:
        return {}
    from perf.serve.load import transformers_peers  # it needs transformers

    peers: Peers = {"`generate`": transformers_peers.generate(shape, CLIENTS, WORDS + 4, tokens)}
    if why_not := transformers_peers.why_not_served():
        print(why_not, file=sys.stderr)
    else:
        serve = transformers_peers.serve(shape, WORDS, tokens, options.threads)
        peers["`transformers serve`"] = stack.enter_context(serve)
    return peers


class Round(NamedTuple):
    """Ratios that medians are taken of, waits for the first token by the clock and of processor time, other cells."""

    ratios: list[float]
    waits: list[list[float]]
    cells: list[str]


def measured(model: VLM, tokens: int, peers: Peers) -> Round:
    """Engine and peers, one after another."""
    batches, alone = [fixed_batch(model, tokens)], prefill(model, tokens)
    rate, read, records = live(model, tokens)
    batches.append(fixed_batch(model, tokens))  # before and after
    others = [Rate(*map(statistics.mean, zip(*batches, strict=True))), *(run() for run in peers.values())]
    shares = [by / other for theirs in others for by, other in zip(rate, theirs, strict=True)]
    seconds = zip(*(record.first_token for record in records), strict=True)
    waits = [[one / unit for one in column] for column, unit in zip(seconds, alone, strict=True)]
    rates = [number(one.by_clock) for one in (rate, *others)]
    cells = [*rates, number(1000 * alone[0]), f"{read:.2f}", str(len(records)), load()]
    return Round(shares, waits, cells)


def row(name: str, ratios: Iterable[float], waits: list[list[float]], cells: list[str]) -> list[str]:
    first = [f"{percentile(column, share):.2f}" for share in SHARES for column in waits]
    return [name, *map(ratio, ratios), *first, *cells]


def rows(model: VLM, tokens: int, rounds: int, peers: Peers) -> Iterator[list[str]]:
    """A row a round, and one of them all."""
    done: list[Round] = []
    for turn in range(rounds):
        done.append(measured(model, tokens, peers))
        yield row(str(turn + 1), *done[-1])
    medians = map(statistics.median, zip(*(each.ratios for each in done), strict=True))
    waits = [[*chain(*columns)] for columns in zip(*(each.waits for each in done), strict=True)]
    yield row("all", medians, waits, [""] * (len(peers) + 6))


def main() -> None:
    arguments = parser(__doc__, rounds=3)
    arguments.add_argument("--no-peer", action="store_true", help="leave transformers out")
    options = start(arguments)
    shape, tokens = (SMOKE, 16) if options.smoke else (SHAPE_130M, TOKENS)
    model = served_model(shape)
    warm(model)
    with ExitStack() as stack:
        peers = contestants(options, shape, tokens, stack)
        names = ["fixed batch", *peers]
        kinds = ("", ", processor time")
        columns = [f"engine / {name}{kind}" for name in names for kind in kinds]
        columns += [f"first token, {share:.0%}, prefills{kind}" for share in SHARES for kind in kinds]
        columns += [f"{name}, tokens/s" for name in ("engine", *names)]
        columns += ["a prefill, ms", "positions read for a token", "requests", "load"]
        table("16 live requests", ["round", *columns], rows(model, tokens, options.rounds, peers))


if __name__ == "__main__":
    main()
