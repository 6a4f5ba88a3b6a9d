"""Selective scan on this machine: the torch backend against the definition, as ratios of one run.

    uv run python perf/scan.py [--threads N] [--rounds N]

Backends take turns within each round, so that a busy machine slows them alike; medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from vlm_core.ssm import selective_scan

SHAPES = [(1, 729, 1536, 16), (1, 729, 5120, 16), (64, 48, 192, 16)]  # B, T, E, S


def arguments(batch: int, length: int, width: int, state: int) -> dict[str, torch.Tensor]:
    """Random inputs that need gradients."""
    torch.manual_seed(0)
    made = {
        "u": torch.randn(batch, length, width).transpose(1, 2),
        "delta": torch.rand(batch, length, width).transpose(1, 2) * 0.1,
        "A": -torch.rand(width, state) * state,
        "B": torch.randn(batch, length, state).transpose(1, 2),
        "C": torch.randn(batch, length, state).transpose(1, 2),
    }
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(shape: tuple[int, int, int, int], rounds: int) -> tuple[float, float]:
    """How many times as fast as the loop the torch backend is: forward, forward and backward."""
    inputs: Any = arguments(*shape)

    def forward(backend: str) -> None:
        with torch.no_grad():
            selective_scan(**inputs, backend=backend)

    def both(backend: str) -> None:
        y = selective_scan(**inputs, backend=backend)
        assert isinstance(y, torch.Tensor)
        torch.autograd.grad(y.sum(), list(inputs.values()))

    ratios = []
    for run in (forward, both):
        run("torch")  # first use allocates
        times = [[seconds(lambda b=b: run(b)) for b in ("reference", "torch")] for _ in range(rounds)]  # noqa: B023
        reference, torch_ = (statistics.median(column) for column in zip(*times, strict=True))
        ratios.append(reference / torch_)
    return ratios[0], ratios[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {options.threads} threads, medians of {options.rounds} interleaved rounds"
    )
    print("| B × T × E × S | forward: torch vs reference | forward + backward |\n|---|---|---|")
    for shape in SHAPES:
        forward, both = measure(shape, options.rounds)
        print(f"| {' × '.join(map(str, shape))} | {forward:.1f}× | {both:.1f}× |", flush=True)


if __name__ == "__main__":
    main()
