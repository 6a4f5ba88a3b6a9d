"""The selective scan on a GPU: every backend, and the time to move as many bytes as it reads and writes.

    uv run python -m perf.gpu.scan

bf16 rows (unless it says fp32) with fp32 inside, with D, gate, bias and softplus. *Kernels* are the default backend's
launches replayed as a CUDA graph: what the GPU needs. The others are called from Python, as layers call them;
mamba_ssm's time includes turning rows into its layout, time last, and back. Its kernels alone, on rows turned
beforehand, are replayed as well, where there is one direction: it knows no other, and only for bf16 and 16 states
(`python -m perf.peers.mamba_ssm_build` builds them). Two floors: *exponentials* computes as many as the scan has to,
one per state, channel and position, and in training as many again, in registers; *copy* reads and writes what the scan
has to, each tensor once: inputs and output, and in training also every gradient. Without a GPU the same runs on the
CPU's backends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from perf.lib.common import parser
from perf.lib.contests import agree
from perf.lib.exponentials import exponentials
from perf.lib.gpu import DEVICE, FAST, bandwidth, clock, moving, nbytes, replayed, start
from perf.lib.tables import Case, Run, compare
from torch import Tensor

from vlm_connectors.scans import bsm, csm
from vlm_connectors.vss import tables
from vlm_ssm import backends, ops
from vlm_ssm.registration.inputs import ScanInputs


class Shape(NamedTuple):
    name: str
    batch: int
    length: int
    width: int
    scan: str | None = None
    states: int = 16
    dtype: torch.dtype = torch.bfloat16


SHAPES = [
    Shape("VSS-MLP, BSM", 1, 729, 2304, "bsm"), Shape("VSS-MLP, CSM", 1, 729, 2304, "csm"),
    Shape("VSS-L2, BSM", 1, 729, 5120, "bsm"), Shape("VSS-L2, CSM", 1, 729, 5120, "csm"),
    Shape("VSS-L2, BSM", 8, 729, 5120, "bsm"), Shape("2.8B", 1, 793, 5120), Shape("2.8B", 8, 793, 5120),
    Shape("2.8B", 1, 8192, 5120), Shape("8 states", 8, 793, 5120, states=8),
    Shape("32 states", 8, 793, 5120, states=32), Shape("64 states", 8, 793, 5120, states=64),
    Shape("fp32", 4, 793, 5120, dtype=torch.float32),
]  # fmt: skip
SMOKE = [Shape("BSM", 1, 9, 32, "bsm"), Shape("plain", 2, 20, 32), Shape("8 states", 1, 9, 32, states=8)]
NAMES = [
    FAST,
    *(n for n in ("triton", "mamba_ssm", "torch") if not backends.missing(n) and n != FAST),
]
KINDS = {"bsm": bsm, "csm": csm}
BARE = "mamba_ssm kernels"


def inputs(shape: Shape) -> dict[str, Tensor | None]:
    """As a layer gives them to `ops.scan`, K directions of shared parameters."""
    side = int(shape.length**0.5)
    scan_order = None if shape.scan is None else tables(KINDS[shape.scan], side, side).to(DEVICE)
    K, (N, T, E, S) = 1 if scan_order is None else len(scan_order), (*shape[1:4], shape.states)
    rows = {
        "u": (K, N, T, E),
        "dt": (K, N, T, E),
        "B": (K, N, T, 1, S),
        "C": (K, N, T, 1, S),
        "z": (N, T, 1, E),
    }
    made: dict[str, Tensor | None] = {n: torch.randn(s).to(shape.dtype) for n, s in rows.items()}
    step = torch.exp(torch.empty(1, E).uniform_(-6.9, -2.3))
    return made | {
        "A": -torch.arange(1.0, S + 1).repeat(1, E, 1),
        "D": torch.ones(1, E),
        "bias": step + torch.log(-torch.expm1(-step)),
        "scan_order": scan_order,
    }


def sizes(i: dict[str, Any]) -> tuple[int, int]:
    """Positions × channels of all directions, and states."""
    return i["u"].numel(), i["A"].shape[-1]


def names_for(i: dict[str, Any]) -> list[str]:
    """Backends that run these inputs: mamba_ssm's kernels are built for bf16 and a gate, so for one direction."""
    covered = i["u"].dtype == torch.bfloat16 and i["scan_order"] is None
    return [name for name in NAMES if name != "mamba_ssm" or covered]


def scan(i: dict[str, Any], backend: str) -> Tensor:
    return ops.scan(ScanInputs(**i, softplus=True), use=backend)[0]


def transposed(i: dict[str, Any]) -> dict[str, Tensor] | None:
    """The same as mamba_ssm's kernels take it; None without them, and for more than one direction."""
    if "mamba_ssm" not in names_for(i):
        return None
    rows = {"u": i["u"][0], "delta": i["dt"][0], "z": i["z"][:, :, 0]}
    made = {n: t.detach().mT.contiguous() for n, t in rows.items()}
    made |= {n: i[n][0].detach().permute(0, 2, 3, 1).contiguous() for n in "BC"}
    return made | {"A": i["A"][0].detach(), "D": i["D"][0].detach(), "delta_bias": i["bias"][0].detach()}


def bare(given: dict[str, Tensor]) -> Tensor:
    """(B, E, T)."""
    return backends.backend(DEVICE, "mamba_ssm").selective_scan_fn(**given, delta_softplus=True)


def forward(shapes: list[Shape]) -> Iterator[Case]:
    for shape in shapes:
        i = inputs(shape)
        names = names_for(i)
        runs: dict[str, Run] = {b: torch.no_grad()(lambda b=b, i=i: scan(i, b)) for b in names}
        for b in names[1:]:
            agree(runs[FAST](), runs[b](), 1e-2)  # pyright: ignore[reportArgumentType]
        runs["kernels"], runs["copy"] = replayed(runs[FAST]), moving(nbytes(*i.values(), i["z"]))
        runs["exponentials"] = exponentials(*sizes(i))
        if given := transposed(i):
            agree(runs[FAST]()[:, :, 0], bare(given).mT, 1e-2)  # pyright: ignore[reportIndexIssue]
            runs[BARE] = replayed(torch.no_grad()(lambda given=given: bare(given)))
        yield label(shape), runs


def both(shapes: list[Shape]) -> Iterator[Case]:
    for shape in shapes:
        i = inputs(shape)
        leaves = [t.requires_grad_() for t in i.values() if t is not None and t.is_floating_point()]
        arriving = torch.randn_like(leaves[4])

        def step(backend: str, i: Any = i, leaves: Any = leaves, arriving: Tensor = arriving) -> object:
            return torch.autograd.grad(scan(i, backend), leaves, arriving)

        runs: dict[str, Run] = {b: lambda b=b, step=step: step(b) for b in names_for(i)}
        moved = 3 * nbytes(*leaves) + 2 * nbytes(arriving)  # read by both passes, gradients, y, its gradient
        runs["kernels"], runs["copy"] = replayed(runs[FAST]), moving(moved)
        runs["exponentials"] = exponentials(*sizes(i), passes=2)
        if given := transposed(i):
            runs[BARE] = replayed(both_bare(given, arriving[:, :, 0].mT.contiguous()))
        yield label(shape), runs


def both_bare(given: dict[str, Tensor], arriving: Tensor) -> Run:
    leaves = [t.requires_grad_() for t in given.values()]
    return lambda: torch.autograd.grad(bare(given), leaves, arriving)


def label(shape: Shape) -> str:
    return f"{shape.name}, batch {shape.batch}, T {shape.length}, E {shape.width}"


def main() -> None:
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument(
        "--shapes", type=int, nargs="+", default=range(len(SHAPES)), help="which, from 0 on"
    )
    options = start(arguments)
    shapes = SMOKE if options.smoke else [SHAPES[i] for i in options.shapes]
    print(f"\nA large copy moves {bandwidth() / 1e9:.0f} GB/s, counting bytes read and written.")
    built = [BARE] if "mamba_ssm" in NAMES else []
    names = ["kernels", *built, *NAMES, "exponentials", "copy"]
    ratios = [("kernels", floor) for floor in ("exponentials", "copy")]
    ratios += [*((b, "kernels") for b in built), *((peer, FAST) for peer in NAMES[1:])]
    compare("Scan, forward", names, ratios, forward(shapes), options.rounds, clock=clock)
    compare("Scan, forward and backward", names, ratios, both(shapes), options.rounds, clock=clock)


if __name__ == "__main__":
    main()
