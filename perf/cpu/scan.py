"""The selective scan alone (with D, gate, bias and softplus, fp32) against transformers' loop and mambapy's scan.

    uv run python -m perf.cpu.scan

Contestants get the same values, each in the memory layout that its own layer produces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from perf.lib.common import need_mambapy, parser, start
from perf.lib.contestants import Inputs, by_channel, our_scan, peer_scan, scan_inputs
from perf.lib.contests import agree, inference, training
from perf.lib.tables import Case, compare
from torch import Tensor

SHAPES = [(729, 1536), (729, 5120)]  # T, E: one image at the widths of the 130m and the 2.8b model
SMOKE = [(32, 48)]
FORWARD = ("numba", "torch", "loop", "mambapy")
BOTH = ("numba", "torch", "mambapy")
NOTE = (
    "The loop is left out of training: the backward of its slices fills a whole (B, E, T, S) tensor for each of T "
    "steps, so it is quadratic in T (about half a minute at T = 729, E = 1536)."
)


def contestants(inputs: Inputs) -> dict[str, tuple[Callable[[], Tensor], Inputs]]:
    """A run, and the inputs that it reads."""
    theirs = by_channel(inputs)
    return {
        "numba": (lambda: our_scan(inputs, "numba"), inputs),
        "torch": (lambda: our_scan(inputs, "torch"), inputs),
        "loop": (lambda: peer_scan(theirs, False), theirs),
        "mambapy": (lambda: peer_scan(theirs, True), theirs),
    }


def forward(shapes: list[tuple[int, int]]) -> Iterator[Case]:
    for length, width in shapes:
        made = contestants(scan_inputs(length, width))
        runs = {name: inference(made[name][0]) for name in FORWARD}
        for name in ("numba", "torch"):
            agree(runs[name](), runs["loop"]().mT, 1e-5)
        yield f"T {length}, E {width}", {**runs}


def both(shapes: list[tuple[int, int]]) -> Iterator[Case]:
    for length, width in shapes:
        made = contestants(scan_inputs(length, width))
        leaves = {name: [t.requires_grad_() for t in made[name][1].values()] for name in BOTH}
        yield f"T {length}, E {width}", {name: training(made[name][0], leaves[name]) for name in BOTH}


def against(*peers: str) -> list[tuple[str, str]]:
    return [(peer, ours) for peer in peers for ours in ("numba", "torch")]


def main() -> None:
    options = start(parser(__doc__, rounds=7))
    need_mambapy()
    shapes = SMOKE if options.smoke else SHAPES
    compare("Scan, forward", FORWARD, against("loop", "mambapy"), forward(shapes), options.rounds)
    compare("Scan, forward and backward", BOTH, against("mambapy"), both(shapes), options.rounds)
    print(f"\n{NOTE}")


if __name__ == "__main__":
    main()
