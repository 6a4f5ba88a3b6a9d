"""Ten optimizer steps of VL-Mamba-2.8B in both stages, on two backends from the same random weights: the same losses?

    uv run python -m perf.gpu.losses [--backends cuda triton] [--layers 8]

The steps are the trainer's own, in bf16 with AdamW at the spec's learning rates: two micro-batches of two samples,
different random ones in each step. bf16 rounds to 8 bits: the exit code is 1 if losses differ by more than 2^-8.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from perf.lib.common import parser
from perf.lib.gpu import FAST, reset, start
from perf.lib.gpu_trained import SMALLEST, TEXT, Part, Trained, layers
from perf.lib.tables import table

from vlm_ssm import backends

STAGES = ("align", "instruct")
ROUNDING = 2.0**-8


def losses(backend: str, stage: int, changes: list[str], options: argparse.Namespace) -> list[float]:
    reset()
    with backends.forced(backend):
        trained = Trained(Part(changes, stage), share=2)
        result = [trained.step(trained.batches(i, 2, options.text)) for i in range(options.steps)]
    trained.close()
    return result


def largest_difference(a: list[float], b: list[float]) -> float:
    """Relative, over all steps."""
    return max(abs(x - y) / abs(y) for x, y in zip(a, b, strict=True))


def rows(changes: list[str], options: argparse.Namespace, differences: list[float]) -> Iterator[list[str]]:
    for stage, name in enumerate(STAGES):
        of_backend = {backend: losses(backend, stage, changes, options) for backend in options.backends}
        first, second = options.backends
        differences.append(largest_difference(of_backend[first], of_backend[second]))
        for backend, values in of_backend.items():
            difference = f"{differences[-1]:.1e}" if backend == first else ""
            yield [name, backend, difference, *(f"{value:.4f}" for value in values)]


def main() -> int:
    arguments = parser(__doc__, rounds=1)
    arguments.add_argument("--backends", nargs=2, default=["cuda", "triton"])
    arguments.add_argument("--steps", type=int, default=10)
    arguments.add_argument("--layers", type=int, help="fewer layers of the language model")
    options = start(arguments)
    torch.set_default_device(None)  # the trainer places its tensors itself
    options.text = 16 if options.smoke else TEXT
    if options.smoke:
        options.backends, options.steps = [FAST, "torch"], 3
    changes = [*(SMALLEST if options.smoke else []), *(layers(options.layers) if options.layers else [])]
    columns = [
        "stage",
        "backend",
        "largest relative difference",
        *(f"step {i + 1}" for i in range(options.steps)),
    ]
    differences: list[float] = []
    table(f"Losses of {options.steps} optimizer steps", columns, rows(changes, options, differences))
    return int(max(differences) > ROUNDING)


if __name__ == "__main__":
    raise SystemExit(main())
