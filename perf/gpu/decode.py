"""Prefill and decoding apart, in tokens a second: Mamba-2.8B beside a Transformer of its size, random weights, bf16.

    uv run python -m perf.gpu.decode [--batches 1 8 64] [--only prefill tokens] [--compile-only]

The prompt is an image of 729 tokens and 64 of text. Decoding takes a fixed number of tokens, greedily, after such a
prompt. The Transformer is transformers' GPT-NeoX with SDPA, run as its documentation says: *compiled* is a static cache
and `torch.compile(mode="reduce-overhead")`, which records a token as a CUDA graph; *eager* launches kernel by kernel
and lets the cache grow. Ours is what sessions use, a token being one CUDA graph; *eager* launches layer by layer.
Floors: for the prefill, the matrix products alone; for a token, reading the weights once, and reading and writing the
state. Memory is what tensors take beyond the weights. `--compile-only` fills torch's cache of compiled kernels, so that
several processes may compile at once, before anything is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
from perf.lib.common import parser
from perf.lib.contests import matrices, products
from perf.lib.gpu import DEVICE, bandwidth, nbytes, replayed, start
from perf.lib.gpu_contests import Measured, cell, measured, quotient
from perf.lib.gpu_models import (
    FULL,
    SMOKE,
    Size,
    mamba,
    our_eager_prefill,
    our_prefill,
    our_tokens,
    peer_prefill,
    peer_tokens,
    transformer,
)
from perf.lib.tables import Run, table
from perf.peers.compiled_transformer import compiled_prefill, compiled_tokens

PROMPT, TOKENS = 729 + 64, 32
RUNS = ["ours", "compiled", "eager", "ours, eager", "floor"]
COLUMNS = [
    "",
    "ours / compiled, tokens/s",
    "floor / ours",
    "ours",
    "Transformer, compiled",
    "Transformer, eager",
    "ours, eager",
    "floor",
    "ours, extra GB",
    "Transformer compiled, extra GB",
]


def row(name: str, tokens: int, results: dict[str, Measured]) -> list[str]:
    speeds = {run: tokens / results.get(run, Measured()).seconds for run in RUNS}
    return [
        name,
        quotient(speeds["ours"], speeds["compiled"]),
        quotient(speeds["floor"], speeds["ours"]),
        *(cell(speeds[run]) for run in RUNS),
        *(cell(results[run].extra) for run in ("ours", "compiled")),
    ]


def prefill_runs(models: Any, x: torch.Tensor) -> dict[str, Callable[[], Run]]:
    ours, peer = models
    tokens = [(x[..., 0].numel(), w) for w in matrices(ours)]
    return {
        "ours": lambda: our_prefill(ours, x),
        "compiled": lambda: compiled_prefill(peer, x),
        "eager": lambda: peer_prefill(peer, x),
        "ours, eager": lambda: our_eager_prefill(ours, x),
        "floor": lambda: replayed(products(tokens)),
    }


def token_runs(models: Any, x: torch.Tensor) -> dict[str, Callable[[], Run]]:
    ours, peer = models
    return {
        "ours": lambda: our_tokens(ours, x, TOKENS, True),
        "compiled": lambda: compiled_tokens(peer, x.shape[0], x.shape[1], TOKENS),
        "eager": lambda: peer_tokens(peer, x, TOKENS),
        "ours, eager": lambda: our_tokens(ours, x, TOKENS, False),
    }


def results_of(runs: dict[str, Callable[[], Run]], rounds: int) -> dict[str, Measured]:
    """Eager runs once: they take long, and no ratio is taken of them."""
    return {name: measured(make, 1 if "eager" in name else rounds) for name, make in runs.items()}


def prompts(size: Size, length: int, models: Any, options: argparse.Namespace) -> Iterator[list[str]]:
    for batch in options.batches:
        x = torch.randn(batch, length, size.width, dtype=torch.bfloat16)
        results = results_of(prefill_runs(models, x), options.rounds)
        yield row(f"prefill, batch {batch}", batch * length, results)


def tokens(size: Size, length: int, models: Any, options: argparse.Namespace) -> Iterator[list[str]]:
    ours, speed = models[0], bandwidth()
    for batch in options.batches:
        x = torch.randn(batch, length, size.width, dtype=torch.bfloat16)
        results = results_of(token_runs(models, x), options.rounds)
        with torch.inference_mode():
            state = sum(nbytes(*s) for s in ours(x[:, :4])[1])
        moved = nbytes(*ours.parameters()) + 2 * state
        results["floor"] = Measured(TOKENS * moved / speed)
        yield row(f"decoding, batch {batch}, state {state / 1e6:.0f} MB", batch * TOKENS, results)


def compile_all(size: Size, length: int, peer: Any, options: argparse.Namespace) -> None:
    for batch in options.batches:
        if "prefill" in options.only:
            compiled_prefill(peer, torch.randn(batch, length, size.width, dtype=torch.bfloat16))
        if "tokens" in options.only:
            compiled_tokens(peer, batch, length, TOKENS)


def main() -> None:
    arguments = parser(__doc__, rounds=3)
    arguments.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    arguments.add_argument("--only", nargs="+", choices=["prefill", "tokens"], default=["prefill", "tokens"])
    arguments.add_argument("--layers", type=int, help="fewer layers of both models, to try the script")
    arguments.add_argument("--compile-only", action="store_true")
    options = start(arguments)
    size, length = (SMOKE, 12) if options.smoke else (FULL, PROMPT)
    if options.layers:
        size = size._replace(mamba_layers=2 * options.layers, layers=options.layers)
    options.batches = [1, 2] if options.smoke else options.batches
    peer = transformer(size, 4 * length + 1024)
    if options.compile_only:
        compile_all(size, length, peer, options)
        return
    models = mamba(size), peer
    for name, model in zip(("ours", "Transformer"), models, strict=True):
        count, weights = sum(p.numel() for p in model.parameters()), nbytes(*model.parameters())
        print(f"\n{name}: {count / 1e9:.3g} billion parameters, {weights / 1e9:.3g} GB", flush=True)
    title = (
        f"prompt of {length}, {TOKENS} tokens at a time (median of {options.rounds} rounds), {DEVICE.type}"
    )
    for name, rows in {"prefill": prompts, "tokens": tokens}.items():
        if name in options.only:
            table(f"Tokens a second, {name}: {title}", COLUMNS, rows(size, length, models, options))


if __name__ == "__main__":
    main()
