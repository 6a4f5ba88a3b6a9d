"""Prefill and decoding apart, in tokens a second: Mamba-2.8B beside a Transformer of its size, random weights, bf16.

    uv run python -m perf.gpu.decode

The prompt is an image of 729 tokens and 64 of text. Decoding takes a fixed number of tokens, greedily, after such a
prompt. *Recorded* is how sessions decode on a GPU, a token being one CUDA graph; *eager* launches kernel by kernel, as
the Transformer does. The Transformer is transformers' GPT-NeoX with SDPA and its own growing cache. Floors: for the
prefill, the matrix products alone; for a token, moving the weights once and the state twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from perf.lib.common import parser
from perf.lib.contests import matrices, products
from perf.lib.gpu import DEVICE, bandwidth, clock, gigabytes, nbytes, peak, reset, start
from perf.lib.gpu_models import (
    FULL,
    SMOKE,
    Size,
    mamba,
    our_prefill,
    our_tokens,
    peer_prefill,
    peer_tokens,
    transformer,
)
from perf.lib.tables import Run, number, ratio, table, turns

PROMPT, TOKENS = 729 + 64, 32
NONE = float("nan")
COLUMNS = [
    "",
    "ours / peer, tokens/s",
    "floor / ours",
    "ours",
    "eager",
    "Transformer",
    "floor",
    "ours, peak GB",
    "Transformer, peak GB",
]


def measured(make: Callable[[], Run], rounds: int) -> tuple[float, float]:
    """Seconds a call and peak GB; what cannot be held says so."""
    reset()
    try:
        found = turns({"run": make()}, rounds, clock=clock)["run"].median
    except torch.OutOfMemoryError:
        return NONE, NONE
    return found, peak()


def row(name: str, tokens: int, times: dict[str, float], memory: tuple[float, float]) -> list[str]:
    speed = {n: tokens / t for n, t in times.items()}
    return [
        name,
        told(speed["ours"] / speed["peer"], ratio),
        told(speed["floor"] / speed["ours"], ratio),
        *(told(speed.get(n, NONE), number) for n in ("ours", "eager", "peer", "floor")),
        *map(gigabytes, memory),
    ]


def told(value: float, how: Callable[[float], str]) -> str:
    return how(value) if value == value else ""


def prompts(size: Size, batches: list[int], length: int, models: Any, rounds: int) -> Iterator[list[str]]:
    ours, peer = models
    weights = matrices(ours)
    for batch in batches:
        x = torch.randn(batch, length, size.width, dtype=torch.bfloat16)
        (own, mine), (other, theirs) = (
            measured(lambda x=x: our_prefill(ours, x), rounds),
            measured(lambda x=x: peer_prefill(peer, x), rounds),
        )
        beneath, _ = measured(lambda n=batch * length: products([(n, w) for w in weights]), rounds)
        times = {"ours": own, "peer": other, "floor": beneath}
        yield row(f"prefill, batch {batch}", batch * length, times, (mine, theirs))


def tokens(size: Size, batches: list[int], length: int, models: Any, rounds: int) -> Iterator[list[str]]:
    (ours, peer), speed = models, bandwidth()
    for batch in batches:
        x = torch.randn(batch, length, size.width, dtype=torch.bfloat16)
        own, mine = measured(lambda x=x: our_tokens(ours, x, TOKENS, True), rounds)
        eager, _ = measured(lambda x=x: our_tokens(ours, x, TOKENS, False), rounds)
        other, theirs = measured(lambda x=x: peer_tokens(peer, x, TOKENS), rounds)
        with torch.inference_mode():
            state = sum(nbytes(*s) for s in ours(x[:, :4])[1])
        floor = TOKENS * (nbytes(*ours.parameters()) + 2 * state) / speed
        times = {"ours": own, "eager": eager, "peer": other, "floor": floor}
        yield row(
            f"decoding, batch {batch}, state {state / 1e6:.0f} MB", batch * TOKENS, times, (mine, theirs)
        )


def main() -> None:
    options = start(parser(__doc__, rounds=3))
    size, length = (SMOKE, 12) if options.smoke else (FULL, PROMPT)
    batches = [1, 2] if options.smoke else [1, 8, 64]
    models = mamba(size), transformer(size, 4 * length + 1024)
    for name, model in zip(("ours", "Transformer"), models, strict=True):
        count, held = sum(p.numel() for p in model.parameters()), nbytes(*model.parameters())
        print(f"\n{name}: {count / 1e9:.3g} billion parameters, {held / 1e9:.3g} GB", flush=True)
    title = f"a prompt of {length}, then {TOKENS} tokens at a time (median of {options.rounds} rounds)"
    table(
        f"Tokens a second, {title}, on {DEVICE.type}",
        COLUMNS,
        prompts(size, batches, length, models, options.rounds),
    )
    table("The same, decoding", COLUMNS, tokens(size, batches, length, models, options.rounds))


if __name__ == "__main__":
    main()
