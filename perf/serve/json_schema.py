"""A thousand samples of a JSON schema: how many are valid, and what the grammar costs a step of decoding.

    uv run python -m perf.serve.json_schema

The samples are of a tiny model with random weights at temperature 1, which knows nothing of JSON. The cost is that of
16 live requests of a Mamba-130m on the same vocabulary: seconds a step with the grammar against without, interleaved;
the schema allows long strings, so that both go on equally long.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import time
from dataclasses import replace

from perf.lib.common import parser, start
from perf.lib.serving import (
    SHAPE_130M,
    TINY,
    chat_request,
    closed,
    engine_of,
    load,
    question,
    recorded,
    served_model,
    warm,
)
from perf.lib.tables import number, table

from vlm_core.model import VLM
from vlm_serve.engine.batching.answer import Answer
from vlm_serve.engine.request import Event, Grammar, SamplingParams
from vlm_serve.engine.settings import EngineSettings

SCHEMA = {
    "type": "object",
    "properties": {
        "object": {"enum": ["dog", "bench", "traffic light", "cup"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 50},
        "certain": {"type": "boolean"},
        "box": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 999},
            "minItems": 4,
            "maxItems": 4,
        },
        "text": {"type": "string", "maxLength": 40},
    },
    "required": ["object", "count", "certain", "box", "text"],
    "additionalProperties": False,
}
LONG = {"type": "object", "properties": {"text": {"type": "string", "minLength": 5000}}, "required": ["text"]}
SAMPLES, ROWS, STEPS = 1000, 16, 12


def fits(text: str) -> bool:
    """Whether a sample matches the schema, checked by hand."""
    value = json.loads(text)
    return (
        set(value) == set(SCHEMA["required"])
        and value["object"] in SCHEMA["properties"]["object"]["enum"]
        and type(value["count"]) is int
        and 0 <= value["count"] <= 50
        and type(value["certain"]) is bool
        and len(value["box"]) == 4
        and all(type(side) is int and 0 <= side <= 999 for side in value["box"])
        and len(value["text"]) <= 40
    )


def valid(samples: int) -> tuple[int, int, int]:
    """(samples that ended, of these valid ones, different ones)."""
    model = served_model(TINY)
    engine = engine_of(model, EngineSettings(slots=64, queue=samples))
    grammar = Grammar("json_schema", json.dumps(SCHEMA))

    async def ask(seed: int) -> str:
        sampling = SamplingParams(max_tokens=2000, temperature=1.0, seed=seed, grammar=grammar)
        record = await recorded(engine, chat_request("what", sampling))
        return record.text if record.last == replace(record.last, reason="stop") else ""  # pyright: ignore

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*map(ask, range(samples)))

    texts = asyncio.run(all_of_them())
    closed(engine)
    ended = [text for text in texts if text]
    return len(ended), sum(map(fits, ended)), len(set(ended))


class _Nobody:
    cancelled = False

    def send(self, event: Event) -> None:
        pass

    hold = send

    def flush(self) -> None:
        pass


class Live:
    """Sixteen answers that are decoded step by step."""

    def __init__(self, model: VLM, grammar: Grammar | None) -> None:
        engine, draw = engine_of(model, EngineSettings(cache_bytes=0)), random.Random(0)
        closed(engine)  # its thread; the steps are taken here
        self.scheduler = engine.scheduler
        for seed in range(ROWS):
            sampling = SamplingParams(max_tokens=5000, temperature=1.0, seed=seed, grammar=grammar)
            request = chat_request(question(draw, 8), sampling)
            self.scheduler.add(Answer(engine.preparer(request), _Nobody()))
        while len(self.scheduler.live) < ROWS:
            self.scheduler.step()

    def seconds(self, steps: int, clock=time.perf_counter) -> float:
        begin = clock()
        for _ in range(steps):
            self.scheduler.step()
        assert len(self.scheduler.live) == ROWS, "an answer has ended"
        return (clock() - begin) / steps


def costs(rounds: int, smoke: bool) -> list[list[str]]:
    """Milliseconds a step with and without the grammar."""
    model = served_model((32, 2, 50280) if smoke else SHAPE_130M)
    warm(model)
    free, bound = Live(model, None), Live(model, Grammar("json_schema", json.dumps(LONG)))
    steps = 3 if smoke else STEPS
    for live in (free, bound):
        live.seconds(steps)
    pairs = [(free.seconds(steps), bound.seconds(steps)) for _ in range(rounds)]
    times = [statistics.median(column) for column in zip(*pairs, strict=True)]
    slower = statistics.median(with_ / without for without, with_ in pairs)
    return [[*(number(1000 * value) for value in times), f"{100 * (slower - 1):+.1f} %", load()]]


def main() -> None:
    options = start(parser(__doc__, rounds=9))
    samples = 20 if options.smoke else SAMPLES
    ended, good, different = valid(samples)
    row = list(map(str, (samples, ended, good, different, load())))
    table("Samples of a JSON schema", ["samples", "ended", "valid", "different", "load"], iter([row]))
    columns = ["without, ms a step", "with, ms a step", "slower", "load"]
    title = f"Sixteen live requests (medians of {options.rounds} interleaved rounds)"
    table(title, columns, itertools.islice(costs(options.rounds, options.smoke), None))


if __name__ == "__main__":
    main()
