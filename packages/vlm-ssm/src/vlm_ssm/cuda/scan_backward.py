"""Launches of the backward scan."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from vlm_ssm.cuda.launch import PLANS, Launch, kernel
from vlm_ssm.cuda.memory import KINDS, Layout, by_row, layout
from vlm_ssm.cuda.scan_inputs import (
    SLICE,
    TENSORS,
    TILE,
    ScanLayout,
    scan_integers,
    scan_layout,
    scan_options,
    scan_tensors,
)
from vlm_ssm.cuda.shapes.parts import divide
from vlm_ssm.registration.inputs import ScanGradients, ScanInputs

WARPS = 4  # of a block, 16 channels each


def backward_parts(sequences: int, length: int, width: int, groups: int = 1) -> tuple[int, int]:
    """Parts of time and chunks of each."""
    return divide(-(-length // TILE), sequences * groups * -(-width // (16 * WARPS)), 3)


_TENSORS = (
    *TENSORS,
    "grad",
    "grad_last",
    "starts",
    "grad_u",
    "grad_dt",
    "grad_z",
    "grad_first",
    "sums",
    "matrices",
    "ends",
    "decays",
    "y",
    "slices",
)


def run_backward(
    inputs: ScanInputs,
    given: ScanGradients,
    results: tuple[Tensor, Tensor, Tensor, Tensor],
    summed: bool,
) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Gradients of u, dt, z and h0 to `results`.

    -> for each slice of 16 states its number and the parts of time; what blocks give to B and C, (blocks, K, N, T, G,
    32); what parts give to A, D and bias. Those of D and bias are right in the last slice.
    """
    (K, N, T, E), groups, states = inputs.u.shape, inputs.B.shape[3], inputs.A.shape[2]
    new = given.starts.new_empty
    per_group = -(-(E // groups) // (16 * WARPS))
    parts, part_chunks = backward_parts(K * N, T, E // groups, groups)
    ends, decays = new(2, K, N, parts, E, states).unbind() if parts > 1 else (None, None)
    first = (*scan_tensors(inputs), given.grad_out, given.grad_last, given.starts, *results)
    views = scan_layout(inputs), layout(given.grad_out), layout(results[2]) if inputs.z is not None else None
    own_gate = inputs.z is not None and not summed
    slices = new(2 + own_gate, K, N, T, E) if states > SLICE else None
    for piece in range(-(-states // SLICE)):
        matrices, sums = new(per_group, K, N, T, groups, 2 * SLICE), new(K, N, parts, (SLICE + 2) * E)
        tensors = (*first, sums, matrices, ends, decays, given.y, slices)
        for launch in _launches(*views, parts, part_chunks, summed, given.y is not None, piece):
            launch(*tensors)
        yield piece, parts, matrices, sums


@lru_cache(PLANS)
def _launches(
    given: ScanLayout,
    grad: Layout,
    grad_z: Layout | None,
    parts: int,
    part_chunks: int,
    summed: bool,
    y: bool,
    piece: int,
) -> list[Launch]:
    """With several parts of time first one that only carries gradients of states through them."""
    (K, N, T, E), groups = given.u.shape, given.B.shape[3]
    width, own_gate = E // groups, given.z is not None and not summed
    options = scan_options(given, given.z is not None) | {"OWN_GATE": own_gate, "WARPS": WARPS}
    options |= {"WRITE_Y": y, "TAIL": width % (16 * WARPS) != 0}
    integers = scan_integers(given) | by_row("grad", grad) | by_row("grad_z", grad_z if own_gate else None)
    integers |= {"part_chunks": part_chunks, "slice": piece, "rows": K * N * T}
    blocks, launches = groups * -(-width // (16 * WARPS)), []
    most = 2 if options["MAT"] == 0 else 3  # exact sums for fp32 B and C need more registers
    for carry, many, min_blocks in ((1, parts - 1, 4), (0, parts, most)):
        if many:
            shared = _shared(bool(carry))
            constants = options | {"CARRY": carry, "MIN_BLOCKS": min_blocks, "SHARED": shared}
            run = kernel("scan_backward.cu", "scan_backward", **constants)
            grid = (blocks, K * N, many)
            launches.append(run.prepare(grid, 32 * WARPS, shared, given.device, _TENSORS, **integers))
    return launches


def _shared(carry: bool) -> int:
    """Bytes of `Shared` in scan_backward.cu."""
    matrices, tiles = TILE * 128 + WARPS * 64, TILE // 4
    return WARPS * (TILE * 192 + (128 if carry else tiles * 1024 + 1024 + 2048)) + matrices


_GATE_TENSORS = ("z", "grad", "summed", "grad_z", "parts", "out")


def gate_backward(acc: Tensor, z: Tensor, grad_out: Tensor, grad_z: Tensor) -> None:
    launch = _gate_launch(acc.shape, layout(z), layout(grad_out), z.get_device())
    launch(z, grad_out, acc, grad_z, None, None)


@lru_cache(PLANS)
def _gate_launch(shape: torch.Size, z: Layout, grad: Layout, device: int) -> Launch:
    N, T, E = shape
    views = {n: v for n, v in (by_row("z", z) | by_row("grad", grad)).items() if not n.endswith("_k")}
    run = kernel("directions.cu", "gate_backward", ROW=KINDS[z.dtype])
    grid = (-(-N * T * E // 2048), 1, 1)
    return run.prepare(grid, 256, 0, device, _GATE_TENSORS, K=1, N=N, T=T, E=E, **views)
