"""Time and memory against length: Mamba-2.8B beside a Transformer of its size, random weights, bf16.

    uv run python -m perf.gpu.length [--only prefill tokens] [--lengths 1024 65536] [--alone 1048576] [--batches 1 4 8]
                                     [--layers 32] [--compile-only]

*Prefill* of one whole sequence; the longest only by ours. *Tokens*: one token after a context, by batch. The
Transformer's is compiled and has a static cache for exactly that context (see `decode.py`); what that cache takes is
worked out where it does not fit. `--layers` takes fewer layers of the Transformer, and twice as many of Mamba, so that
it fits: both models' time and memory are those of their layers. Memory is what tensors take beyond the weights. Empty
cells did not fit the GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from perf.lib.common import parser
from perf.lib.gpu import nbytes, start
from perf.lib.gpu_contests import Measured, cell, measured, quotient
from perf.lib.gpu_models import (
    FULL,
    SMOKE,
    Size,
    mamba,
    our_prefill,
    our_tokens,
    peer_prefill,
    state_after,
    transformer,
)
from perf.lib.tables import number, table
from perf.peers.compiled_transformer import compiled_tokens

LENGTHS = [2**k for k in (10, 12, 13, 14, 15, 16)]
ALONE = 2**20
CONTEXT, BATCHES = 2**16, (1, 4, 8)
TOKENS = 16
PREFILL = [
    "tokens",
    "Transformer / ours",
    "ours, ms",
    "Transformer, ms",
    "ours, extra GB",
    "Transformer, extra GB",
]
TOKEN = [
    "context, batch",
    "Transformer / ours",
    "ours, ms a token",
    "Transformer compiled, ms a token",
    "ours, state GB",
    "Transformer, cache GB",
]


def prefills(size: Size, models: tuple, options: argparse.Namespace) -> Iterator[list[str]]:
    ours, peer = models
    lengths, alone = ([16, 32], [64]) if options.smoke else (options.lengths, options.alone)
    for length in [*lengths, *alone]:
        x = torch.randn(1, length, size.width, dtype=torch.bfloat16)
        mine = measured(lambda x=x: our_prefill(ours, x), options.rounds)
        theirs = (
            Measured() if length in alone else measured(lambda x=x: peer_prefill(peer, x), options.rounds)
        )
        yield [
            str(length),
            quotient(theirs.seconds, mine.seconds),
            cell(mine.seconds * 1e3),
            cell(theirs.seconds * 1e3),
            cell(mine.extra),
            cell(theirs.extra),
        ]


def tokens(size: Size, models: tuple, options: argparse.Namespace) -> Iterator[list[str]]:
    ours, peer = models
    for context, batch in [(16, 2), (32, 2)] if options.smoke else [(CONTEXT, n) for n in options.batches]:
        with torch.inference_mode():
            logits, state = state_after(ours, batch, context)
        mine = measured(lambda s=state, g=logits: our_tokens(ours, (g, s), TOKENS, True), options.rounds)
        state_bytes = sum(nbytes(*layer) for layer in state)
        del state
        theirs = measured(lambda c=context, b=batch: compiled_tokens(peer, b, c, TOKENS), options.rounds)
        cache = 2 * 2 * size.layers * size.width * batch * (context + TOKENS)  # keys and values, 2 bytes each
        yield [
            f"{context}, {batch}",
            quotient(theirs.seconds, mine.seconds),
            cell(mine.seconds / TOKENS * 1e3),
            cell(theirs.seconds / TOKENS * 1e3),
            number(state_bytes / 1e9),
            number(cache / 1e9),
        ]


def main() -> None:
    arguments = parser(__doc__, rounds=2)
    arguments.add_argument("--only", nargs="+", choices=["prefill", "tokens"], default=["prefill", "tokens"])
    arguments.add_argument("--lengths", type=int, nargs="*", default=LENGTHS)
    arguments.add_argument("--alone", type=int, nargs="*", default=[ALONE], help="lengths by ours alone")
    arguments.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="sequences of *tokens*")
    arguments.add_argument(
        "--layers", type=int, default=FULL.layers, help="of the Transformer; ours has twice as many"
    )
    arguments.add_argument(
        "--compile-only", action="store_true", help="fill torch's cache of compiled kernels"
    )
    options = start(arguments)
    full = FULL._replace(layers=options.layers, mamba_layers=2 * options.layers)
    size = SMOKE if options.smoke else full
    peer = transformer(size, 2**17)
    if options.compile_only:
        for batch in options.batches:
            compiled_tokens(peer, batch, CONTEXT, TOKENS)
        return
    for name, columns, rows in (("prefill", PREFILL, prefills), ("tokens", TOKEN, tokens)):
        if name in options.only:
            title = f"Length, {name} (median of {options.rounds} rounds)"
            table(title, columns, rows(size, (mamba(size), peer), options))


if __name__ == "__main__":
    main()
