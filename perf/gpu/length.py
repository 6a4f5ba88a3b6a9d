"""Time and memory against length: Mamba-2.8B beside a Transformer of its size, one sequence, random weights, bf16.

    uv run python -m perf.gpu.length

Prefill of the whole sequence, and one token after it. A length that does not fit the GPU leaves its cells empty.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from perf.gpu.decode import measured, told
from perf.lib.common import parser
from perf.lib.gpu import gigabytes, start
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
from perf.lib.tables import number, ratio, table

COLUMNS = [
    "tokens",
    "prefill: Transformer / ours",
    "ours, ms",
    "Transformer, ms",
    "ours, peak GB",
    "Transformer, peak GB",
    "token: Transformer / ours",
    "ours, ms a token",
    "Transformer, ms a token",
]


def rows(size: Size, lengths: list[int], rounds: int) -> Iterator[list[str]]:
    ours, peer = mamba(size), transformer(size, max(lengths) + 1024)
    for length in lengths:
        x = torch.randn(1, length, size.width, dtype=torch.bfloat16)
        own, mine = measured(lambda x=x: our_prefill(ours, x), rounds)
        other, theirs = measured(lambda x=x: peer_prefill(peer, x), rounds)
        token, _ = measured(lambda x=x: our_tokens(ours, x, 8, True), rounds)
        their_token, _ = measured(lambda x=x: peer_tokens(peer, x, 8), rounds)
        yield [
            str(length),
            told(other / own, ratio),
            told(own * 1e3, number),
            told(other * 1e3, number),
            gigabytes(mine),
            gigabytes(theirs),
            told(their_token / token, ratio),
            told(token / 8 * 1e3, number),
            told(their_token / 8 * 1e3, number),
        ]


def main() -> None:
    options = start(parser(__doc__, rounds=2))
    size, lengths = (SMOKE, [16, 32]) if options.smoke else (FULL, [2**k for k in range(10, 17)])
    table(f"Length (median of {options.rounds} rounds)", COLUMNS, rows(size, lengths, options.rounds))


if __name__ == "__main__":
    main()
