"""How far each backend is from the scan in float64: the output, and the gradient of every input.

uv run python -m perf.cpu.accuracy
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from perf.lib.common import parser, start
from perf.lib.contestants import Inputs, our_scan, scan_inputs
from perf.lib.contests import error
from perf.lib.tables import table
from torch import Tensor

from vlm_ssm.reference import recurrence

BACKENDS = ("numba", "torch", "reference")
STREAMS = ("u", "dt", "B", "C", "z")  # what is bf16 in a bf16 model


def definition(i: Inputs) -> Tensor:
    """In the precision of its inputs -> y (1, T, E)."""
    start_state = i["A"].new_zeros(1, *i["A"].shape)
    step = F.softplus(i["dt"] + i["bias"])
    y, _ = recurrence(i["u"], step, i["A"], i["B"].unsqueeze(2), i["C"].unsqueeze(2), start_state, None)
    return (y + i["u"] * i["D"]) * F.silu(i["z"])


def results(scan: Callable[[Inputs], Tensor], inputs: Inputs, arriving: Tensor) -> list[Tensor]:
    """y, then the gradients in the order of the inputs."""
    leaves = {name: t.detach().requires_grad_() for name, t in inputs.items()}
    y = scan(leaves)
    return [y.detach(), *torch.autograd.grad(y, list(leaves.values()), arriving.to(y.dtype))]


def doubled(inputs: Inputs) -> Inputs:
    return {name: t.double() for name, t in inputs.items()}


def fp32(inputs: Inputs) -> Iterator[Sequence[str]]:
    arriving = torch.randn_like(inputs["u"])
    truth = results(definition, doubled(inputs), arriving)
    found = [results(lambda i, b=b: our_scan(i, b), inputs, arriving) for b in BACKENDS]
    names = ["y", *(f"gradient of {name}" for name in inputs)]
    for name, exact, *values in zip(names, truth, *found, strict=True):
        yield [name, *(f"{error(value, exact):.1e}" for value in values)]


@torch.no_grad()
def bf16(inputs: Inputs) -> Iterator[Sequence[str]]:
    """The least error that a bf16 output can have is that of rounding the exact one."""
    rounded = inputs | {name: inputs[name].bfloat16() for name in STREAMS}
    exact = definition(doubled(rounded))
    yield [
        "y of bf16 u, dt, B, C, z",
        *(f"{error(our_scan(rounded, b), exact):.3e}" for b in BACKENDS),
    ]
    yield ["the exact y, rounded to bf16", *[f"{error(exact.bfloat16(), exact):.3e}"] * len(BACKENDS)]


def main() -> None:
    options = start(parser(__doc__, rounds=1))
    length, width = (16, 32) if options.smoke else (729, 256)
    inputs = scan_inputs(length, width)
    columns = ["", *BACKENDS]
    size = f"T {length}, E {width}, S 16"
    table(f"Relative L2 error against float64, fp32 inputs, {size}", columns, fp32(inputs))
    table(f"The same for bf16 inputs, {size}", columns, bf16(inputs))


if __name__ == "__main__":
    main()
