"""A stream without end: memory and time a frame from frame 100 to 100,000, and a frame against its matrix products.

    uv run python -m perf.state.stream [--frames 100000]

One watcher reads all frames, 25 a second, a state kept each minute. RSS is read at a dozen points, and its slope is
that of a least-squares line from frame 1,000 on, with the bytes of kept states and without. At each point the watcher
takes turns with a new one that has read 100 frames, 20 frames each. The ratio is the median over the rounds of the CPU
times of two neighbouring turns, with its quartiles: other processes, which share the machine, slow both alike. At frame
100 the two are the same, and the ratio is the noise. The model is tiny: what would grow is not hidden by what a frame
costs. The last lines are the goals: slope 0, and the CPU time of a frame within ±5 % of that after 100 frames.

The second table is one layer of the 2.8B's shape that continues a state with the tokens of a frame, against the matrix
products of the layer alone, as in perf/cpu/prefill.py.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from perf.cpu.length import cpu_time
from perf.lib.common import parser, start
from perf.lib.contestants import lower, models
from perf.lib.contests import as_in_vlm, inference, matrices, on, products
from perf.lib.tables import Case, Run, compare, number, table

from vlm_connectors.configs import MLPConfig
from vlm_core.generation.generate import Session
from vlm_core.generation.watch.watcher import Watcher
from vlm_core.model import VLM
from vlm_core.runtime.peak_rss import current_rss
from vlm_core.text.template import TEMPLATES
from vlm_encoders.configs import TimmConfig
from vlm_llms.mamba.mamba import MambaLM
from vlm_llms.tokenizer.tokenizer import train_bpe

TEMPLATE = TEMPLATES["llava-v1"]
RATE = 25  # frames a second
YOUNG, TURN = 100, 20  # frames of the watcher that is compared with, and of a turn
TOLERANCE = 0.05
STEADY = 1000  # the frame from which memory is a line
WIDTH, TOKENS, LAYER_ROUNDS = 2560, (729, 64), 11


def tiny_model() -> VLM:
    """Four tokens a frame of 32×32 pixels, two Mamba layers of width 16."""
    size: dict[str, Any] = {"depth": 2, "embed_dim": 16, "num_heads": 2}
    tower = TimmConfig(model="vit_tiny_patch16_224", image_size=32, model_args=size).build(weights=False)
    tokenizer = train_bpe([TEMPLATE.system] * 3, 300)
    llm = MambaLM(16, 2, 304, load_tokenizer=lambda: tokenizer)
    return VLM(tower, MLPConfig().build(tower.dim, llm.dim), llm).eval()


class Stream:
    """A watcher with an endless supply of frames."""

    def __init__(self, model: VLM) -> None:
        self.watcher = Watcher(Session(model), [], TEMPLATE)
        self._images, self._numbers = torch.rand(16, 3, 32, 32).unbind(0), count()

    def read(self, frames: int) -> None:
        for _ in range(frames):
            number = next(self._numbers)
            self.watcher.append(number / RATE, self._images[number % len(self._images)])

    def __len__(self) -> int:
        return self.watcher.frames


class Turns(NamedTuple):
    """Milliseconds of CPU time a frame of two streams, medians, and the quartiles of their ratio."""

    old: float
    young: float
    quartiles: tuple[float, float, float]


def in_turns(old: Stream, model: VLM, rounds: int) -> Turns:
    """The stream against one that has read `YOUNG` frames."""
    times: dict[bool, list[float]] = {True: [], False: []}
    young = Stream(model)
    young.read(YOUNG)
    for turn in range(rounds):
        for is_old in (turn % 2 == 0, turn % 2 == 1):  # neither is always the first
            stream = old if is_old else young
            times[is_old].append(cpu_time(lambda stream=stream: stream.read(TURN)) / TURN)
    ratios = np.divide(times[True], times[False])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
    old_ms, young_ms = (statistics.median(times[is_old]) * 1e3 for is_old in (True, False))
    return Turns(old_ms, young_ms, (low, middle, high))


def watch(frames: int, rounds: int) -> Iterator[list[str]]:
    """A row for each point; the goals last."""
    model = tiny_model()
    stream, memory, kept_bytes = Stream(model), {}, {}
    turns: dict[int, Turns] = {}
    points = sorted({YOUNG, STEADY, *(frames * k // 10 for k in range(1, 11))})
    for point in points:
        read = point - len(stream)
        if read <= 0:  # taking turns has gone beyond it
            continue
        begin = time.perf_counter()
        stream.read(read)
        mean = (time.perf_counter() - begin) / read * 1e3
        kept = stream.watcher.kept
        memory[point], kept_bytes[point] = current_rss(), kept.nbytes
        turns[point] = in_turns(stream, model, rounds)
        own, young, (low, ratio, high) = turns[point]
        yield [
            f"{point:,}",
            f"{memory[point] / 1e6:.2f}",
            number(mean),
            number(own),
            number(young),
            f"{ratio:.3f} ({low:.3f} to {high:.3f})",
            str(stream.watcher.nbytes),
            f"{len(kept.times)} ({kept.nbytes / 1e3:.0f} kB)",
        ]
    late = [at for at in memory if at >= STEADY]
    if len(late) > 1:
        slope, own = (
            float(np.polyfit(late, [memory[at] - without.get(at, 0) for at in late], 1)[0])
            for without in ({}, kept_bytes)
        )
        share = 100 * own * late[-1] / memory[late[-1]]
        text = f"{slope:.2f} bytes a frame; {own:.2f} without kept states, {share:.3f} % of RSS in all frames"
        yield [f"goal: slope 0 from {STEADY:,}", text, *[""] * 6]
    ratio = turns[max(turns)].quartiles[1]
    verdict = "met" if abs(ratio - 1) <= TOLERANCE else "missed"
    worst = max((turn.quartiles[1] for turn in turns.values()), key=lambda ratio: abs(ratio - 1))
    text = f"ratio {ratio:.3f} at the last row: {verdict}; furthest from 1 in any row {worst:.3f}"
    yield [f"goal: CPU time a frame within ±{TOLERANCE:.0%}", text, *[""] * 6]


def layer(width: int, tokens: int, dtype: torch.dtype) -> dict[str, Run]:
    """One layer that continues a state with the tokens of a frame, and its matrix products."""
    llm, _ = models(width, 1)
    if dtype == torch.bfloat16:
        lower(llm)
    x = torch.randn(1, tokens, width, dtype=dtype)
    with torch.inference_mode():
        state = llm.next_state(x)
    run = inference(lambda: llm.next_state(x, state=state)[0].ssm)
    floor = products([(tokens, weight) for weight in matrices(llm)])
    return {"a frame": on("numba", as_in_vlm(x, run)), "floor": as_in_vlm(x, floor)}


def layers(width: int, sizes: tuple[int, ...]) -> Iterator[Case]:
    for tokens in sizes:
        for dtype in (torch.float32, torch.bfloat16):
            name = "fp32" if dtype == torch.float32 else "bf16"
            yield f"one layer of width {width}, {tokens} tokens, {name}", layer(width, tokens, dtype)


def load() -> str:
    return f"load average {', '.join(f'{value:.1f}' for value in os.getloadavg())}"


def main() -> None:
    arguments = parser(__doc__, rounds=41)
    arguments.add_argument("--frames", type=int, default=100_000)
    options = start(arguments)
    print(load())
    columns = [
        "frames",
        "RSS, MB",
        "wall ms a frame since the row above",
        "CPU ms a frame",
        "CPU ms after 100 frames",
        "ratio (quartiles)",
        "bytes of the state",
        "kept states",
    ]
    frames = 2000 if options.smoke else options.frames
    table(f"{frames:,} frames", columns, watch(frames, options.rounds))
    print(load())
    cases = layers(32, (16,)) if options.smoke else layers(WIDTH, TOKENS)
    rounds = min(options.rounds, LAYER_ROUNDS)
    compare("The tokens of a frame", ["a frame", "floor"], [("a frame", "floor")], cases, rounds)
    print(load())


if __name__ == "__main__":
    main()
