"""The engine on a GPU under 16 live requests that come and go, against a fixed batch and against its own graph.

    uv run python -m perf.serve.gpu_throughput

A Mamba of the shapes 130M and 2.8B, random weights in bf16. `fixed batch`, `engine` and the time to the first token are
those of `perf.serve.throughput`. `step`: of an engine with 16 endless answers and no arrivals, by the clock; `graph`:
of the CUDA graph of such a step alone, by the GPU's clock: what is above it is the host's. `drawn`: such a step where
every answer is drawn at temperature 1, on the GPU; `top_k`: with top_k 40, on the host. Without a GPU all runs on the
CPU, to see that it works.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import time
from argparse import Namespace
from collections.abc import Iterator

import torch
from perf.lib import gpu
from perf.lib.common import parser
from perf.lib.serving import Rate, chat_request, closed, engine_of, load, percentile, question, recorded, warm
from perf.lib.tables import number, ratio, table
from perf.serve import throughput
from perf.serve.load.gpu_model import Shape, gpu_model
from perf.serve.throughput import CLIENTS, WORDS, fixed_batch, live, prefill

from vlm_core.model import VLM
from vlm_serve.engine.batching.decode_groups import Batching, Group
from vlm_serve.engine.request import SamplingParams
from vlm_serve.engine.settings import EngineSettings

SHAPES: dict[str, Shape] = {"130M": (768, 24, 50280), "2.8B": (2560, 64, 50280)}
SMOKE: Shape = (32, 2, 50280)
TOKENS, REQUESTS, STEPS = 96, 8, 150
REST = 0.01
"""Time between an answer and the client's next request, in answers."""


def step_seconds(model: VLM, steps: int, **chosen_by: float) -> tuple[float, float]:
    """Seconds of a step while all clients are answered, by the clock, and of processor time.

    `chosen_by`: of `SamplingParams`.
    """
    engine, draw = engine_of(model, EngineSettings(slots=CLIENTS, cache_bytes=0)), random.Random(4)
    tokens = steps + 4 * CLIENTS
    sampling = SamplingParams(max_tokens=tokens, **chosen_by)  # pyright: ignore[reportArgumentType]
    counters, marks = engine.scheduler.counters, []

    async def watch() -> None:
        while len(engine.scheduler.live) < CLIENTS:
            await asyncio.sleep(0.002)
        for _ in range(2):
            marks.append((time.perf_counter(), time.process_time(), counters.decode_steps))
            while counters.decode_steps < marks[0][2] + steps // 2 and len(engine.scheduler.live) == CLIENTS:
                await asyncio.sleep(0.002)

    async def measure() -> None:
        requests = [recorded(engine, chat_request(question(draw, WORDS), sampling)) for _ in range(CLIENTS)]
        await asyncio.gather(watch(), *requests)

    asyncio.run(measure())
    closed(engine)
    (begin, used, first), (end, used_later, last) = marks
    count = max(1, last - first)
    return (end - begin) / count, (used_later - used) / count


def graph_seconds(model: VLM) -> tuple[float, int]:
    """Seconds of the graph of a step of all clients, by the GPU's clock, and the number of graphs of a group."""
    ids = torch.zeros(1, 3, dtype=torch.long, device=gpu.DEVICE)
    with torch.inference_mode():
        state = model.forward_embeds(model.llm.embed(ids))[1]
    assert state is not None
    group = Group[int](model, Batching.of(model))
    members = min(CLIENTS, group.rows)
    group.change([], [(member, state) for member in range(members)])
    group.launch([1] * members).read()
    again: list[int | None] = [None if group.runs_ahead else 1] * members
    return statistics.median(gpu.clock(lambda: group.launch(again)) for _ in range(5)), group.graphs


def measured(name: str, model: VLM, options: Namespace) -> list[str]:
    """The cells of one round."""
    tokens = 8 if options.smoke else TOKENS
    alone = prefill(model, tokens)[0]
    batches = [fixed_batch(model, tokens)]
    answer = CLIENTS * tokens / batches[0].by_clock
    rate, read, records = live(model, tokens, REST * answer)
    batches.append(fixed_batch(model, tokens))
    batch = Rate(*map(statistics.mean, zip(*batches, strict=True)))
    waits = [record.first_token[0] / alone for record in records]
    steps = 16 if options.smoke else STEPS
    (graph, graphs), (step, host) = graph_seconds(model), step_seconds(model, steps, temperature=0.0)
    drawn, _ = step_seconds(model, steps, temperature=1.0)
    on_host, _ = step_seconds(model, steps // 3, temperature=1.0, top_k=40)
    return [
        name,
        ratio(rate.by_clock / batch.by_clock),
        *(number(one.by_clock) for one in (rate, batch)),
        *(f"{percentile(waits, share):.2f}" for share in (0.5, 0.99)),
        number(1000 * alone),
        *(f"{1000 * seconds:.3f}" for seconds in (graph, step, host, drawn, on_host)),
        ratio(graph / step),
        str(graphs),
        f"{read:.2f}",
        str(len(records)),
        load(),
    ]


def rows(options: Namespace) -> Iterator[list[str]]:
    """A row for each shape and round."""
    shapes = {"tiny": SMOKE} if options.smoke else {name: SHAPES[name] for name in options.shapes}
    for name, shape in shapes.items():
        model = gpu_model(shape, gpu.DEVICE)
        warm(model)
        fixed_batch(model, 8 if options.smoke else TOKENS)  # its graphs are captured
        for _ in range(options.rounds):
            yield measured(name, model, options)
        del model
        gc.collect()
        torch.cuda.empty_cache()


def main() -> None:
    arguments = parser(__doc__, rounds=2)
    arguments.add_argument("--shapes", nargs="+", choices=SHAPES, default=[*SHAPES])
    options = arguments.parse_args()
    options.rounds = 1 if options.smoke else options.rounds
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    throughput.REQUESTS = 3 if options.smoke else REQUESTS
    if gpu.DEVICE.type == "cuda":
        print(gpu.gpu(), flush=True)
    columns = ["shape", "engine / fixed batch", "engine, tokens/s", "fixed batch, tokens/s"]
    columns += ["first token, 50%, prefills", "first token, 99%, prefills", "a prefill, ms"]
    columns += ["graph, ms", "step, ms", "processor time of a step, ms", "drawn, ms", "top_k, ms"]
    columns += ["graph / step", "graphs", "positions read for a token", "requests", "load"]
    table("16 live requests on a GPU", columns, rows(options))


if __name__ == "__main__":
    main()
