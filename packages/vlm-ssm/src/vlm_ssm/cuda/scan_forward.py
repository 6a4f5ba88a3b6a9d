"""Launches of the forward scan."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlm_ssm.cuda.launch import kernel
from vlm_ssm.cuda.memory import KINDS, by_row
from vlm_ssm.cuda.parts import MULTIPROCESSORS, divide
from vlm_ssm.cuda.scan_inputs import TILE, scan_arguments, scan_options
from vlm_ssm.registration.inputs import ScanInputs

SHARED_MEMORY = 227 * 1024
"""Bytes of a multiprocessor of an H200."""
RESIDENT = 512
"""Threads of a multiprocessor that registers allow."""


class Split(NamedTuple):
    """How a forward is divided: channels of a block, lanes of a channel, parts of time and tiles of each."""

    block: int
    lanes: int
    parts: int
    part_tiles: int


def forward_split(
    sequences: int, length: int, width: int, groups: int = 1, states: int = 16, size: int = 2
) -> Split:
    """By shapes alone, so that sums have one order. `width`: channels of a group; `size`: bytes of a number."""
    channels, tiles = sequences * width * groups, -(-length // TILE)
    least = 16384 if channels >= 8192 else 2048
    block, lanes = (64, 2) if channels >= least else (32, 4)
    if states != 16:
        block, lanes = (64, 2) if states == 8 else (32, states // 8)
        block = 16 if states == 64 and size == 4 else block  # within the shared memory of small GPUs
    if channels >= 8192:  # a second pass over time costs more than idle multiprocessors
        return Split(block, lanes, 1, tiles)
    return Split(block, lanes, *divide(tiles, sequences * groups * -(-width // block), 4))


def run_forward(
    inputs: ScanInputs,
    out: dict[str, Any],
    last: Tensor,
    starts: Tensor | None,
    summed: bool,
    acc: Tensor | None = None,
    keep: bool = False,
) -> None:
    """`summed`: `out` gets each direction's part, ungated fp32 — or, if `acc` (N, T, E) is given, the sum and its gate.

    With `keep`, `acc` gets the ungated sum.
    """
    (K, N, T, E), groups = inputs.u.shape, inputs.B.shape[3]
    width, device, states = E // groups, inputs.u.device.index, inputs.A.shape[2]
    split = forward_split(K * N, T, width, groups, states, inputs.u.element_size())
    chained = acc is not None
    gated = inputs.z is not None and (chained or not summed)
    options, shared = scan_options(inputs, gated), _forward_shared(split, inputs, gated)
    options |= {"BLOCK": split.block, "LANES": split.lanes, "MIN_BLOCKS": _min_blocks(split, states, shared)}
    options |= {"TAIL": width % split.block != 0, "OUT": 0 if summed and not chained else options["ROW"]}
    options["CHAINED"] = chained
    ends = decays = None
    if split.parts > 1:
        ends, decays = last.new_empty(2, K, N, split.parts, E, states).unbind()
    values = scan_arguments(inputs) | out | {"first": inputs.h0, "last": last, "starts": starts}
    values |= {"ends": ends, "decays": decays, "part_tiles": split.part_tiles}
    threads = split.block * split.lanes
    blocks = groups * -(-width // split.block)
    done = last.new_zeros(N, blocks, dtype=torch.int32) if chained else None
    values |= {"acc": acc, "done": done, "K": K, "keep": keep}
    for state_only, parts in ((1, split.parts - 1), (0, split.parts)):
        if parts:
            run = kernel("scan_forward.cu", "scan_forward", **options, STATE_ONLY=state_only, SHARED=shared)
            run((blocks, K * N, parts), threads, shared, device, **values)


def can_chain(inputs: ScanInputs) -> bool:
    """Whether directions add up within one launch.

    The blocks of one direction must fill the GPU: then those of the next, which wait for them, start when they end.
    """
    (K, N, T, E), groups = inputs.u.shape, inputs.B.shape[3]
    split = forward_split(K * N, T, E // groups, groups, inputs.A.shape[2], inputs.u.element_size())
    blocks = N * groups * -(-(E // groups) // split.block)
    return split.parts == 1 and blocks * split.block * split.lanes >= MULTIPROCESSORS * RESIDENT


def _min_blocks(split: Split, states: int, shared: int) -> int:
    """Blocks of a multiprocessor that registers must suffice for: 128 a thread where a lane has many states."""
    if states // split.lanes < 8 and split.lanes > 2:
        return 1
    return max(1, min(512 // (split.block * split.lanes), SHARED_MEMORY // shared))


def _forward_shared(split: Split, inputs: ScanInputs, gated: bool) -> int:
    """Bytes of `Shared` in scan_forward.cu."""
    tile, row, mat = TILE * split.block, inputs.u.element_size(), inputs.B.element_size()
    matrices = TILE * 2 * inputs.A.shape[2]
    raw = row * (tile * (3 if gated else 2)) + (0 if gated else 16) + mat * matrices
    sums = 4 if split.lanes == 2 else tile * split.lanes
    return 2 * raw + 4 * (2 * tile + matrices + 2 * split.block + sums)


def sum_directions(parts: Tensor, z: Tensor | None, acc: Tensor | None, out: Tensor) -> None:
    K, N, T, E = parts.shape
    gate = {name: value for name, value in by_row("z", z).items() if name != "z_k"}
    values = gate | {
        "parts": parts,
        "summed": acc,
        "out": out,
        "grad": None,
        "grad_n": 0,
        "grad_t": 0,
        "grad_z": None,
    }
    run = kernel("directions.cu", "sum_directions", ROW=KINDS[out.dtype])
    run((-(-N * T * E // 2048), 1, 1), 256, 0, out.device.index, K=K, N=N, T=T, E=E, **values)
