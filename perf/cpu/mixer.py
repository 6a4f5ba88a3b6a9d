"""A training step of one Mamba layer: forward, and backward to the input and every parameter, fp32.

    uv run python -m perf.cpu.mixer

The peer is transformers' layer with `use_mambapy` (its loop's backward is quadratic). The floor is the layer's four
matrix products alone, forward and both gradients.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from perf.lib.common import need_mambapy, parser, start
from perf.lib.contestants import our_mixer, peer_mixer
from perf.lib.contests import agree, matrices, on, products, training
from perf.lib.tables import Case, compare

WIDTHS = {768: ("numba", "torch"), 2560: ("numba",)}
SMOKE = {32: ("numba", "torch")}
LENGTH = 729


def cases(widths: dict[int, tuple[str, ...]], length: int) -> Iterator[Case]:
    for width, backends in widths.items():
        theirs = peer_mixer(width, use_mambapy=True)
        ours = our_mixer(theirs, width)
        x = torch.randn(1, length, width, requires_grad=True)
        runs = {b: on(b, lambda m=ours, x=x: m(x)[0]) for b in backends}
        for run in runs.values():
            agree(run().detach(), theirs(x).detach(), 1e-5)
        steps = {b: training(run, [x, *ours.parameters()]) for b, run in runs.items()}
        steps["mambapy"] = training(lambda m=theirs, x=x: m(x), [x, *theirs.parameters()])
        steps["floor"] = products([(length, w) for w in matrices(ours)], backward=True)
        yield f"width {width}, T {length}", steps


def main() -> None:
    options = start(parser(__doc__, rounds=7))
    need_mambapy()
    found = cases(SMOKE, 32) if options.smoke else cases(WIDTHS, LENGTH)
    ratios = [("mambapy", "numba"), ("numba", "floor"), ("mambapy", "torch")]
    names = ["numba", "torch", "mambapy", "floor"]
    compare("Training step of one layer", names, ratios, found, options.rounds)


if __name__ == "__main__":
    main()
