"""Launches of the forward scan."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from vlm_ssm.cuda.launch import PLANS, Launch, kernel
from vlm_ssm.cuda.memory import KINDS, Layout, by_direction, by_row, layout
from vlm_ssm.cuda.parts import divide
from vlm_ssm.cuda.scan_inputs import (
    STATES,
    TENSORS,
    TILE,
    ScanLayout,
    scan_integers,
    scan_layout,
    scan_options,
    scan_tensors,
)
from vlm_ssm.registration.inputs import ScanInputs


class Split(NamedTuple):
    """How a forward is divided: channels of a block, lanes of a channel, parts of time and tiles of each."""

    block: int
    lanes: int
    parts: int
    part_tiles: int


def forward_split(sequences: int, length: int, width: int, groups: int = 1) -> Split:
    """By shapes alone, so that sums have one order. `width`: channels of a group."""
    channels, tiles = sequences * width * groups, -(-length // TILE)
    if channels >= 8192:  # a second pass over time costs more than idle multiprocessors
        block, lanes = (64, 2) if channels >= 16384 else (32, 4)
        return Split(block, lanes, 1, tiles)
    block, lanes = (64, 2) if channels >= 2048 else (32, 4)
    return Split(block, lanes, *divide(tiles, sequences * groups * -(-width // block), 4))


_TENSORS = (*TENSORS, "first", "out", "last", "starts", "ends", "decays")


def run_forward(inputs: ScanInputs, out: Tensor, last: Tensor, starts: Tensor | None, summed: bool) -> None:
    """y to `out`: gated rows (N, T, J, E), or, of directions that will be `summed`, fp32 (K, N, T, E)."""
    (K, N, T, E), groups = inputs.u.shape, inputs.B.shape[3]
    split = forward_split(K * N, T, E // groups, groups)
    ends = decays = None
    if split.parts > 1:
        ends, decays = last.new_empty(2, K, N, split.parts, E, STATES).unbind()
    tensors = (*scan_tensors(inputs), inputs.h0, out, last, starts, ends, decays)
    for launch in _launches(scan_layout(inputs), layout(out), split, summed):
        launch(*tensors)


@lru_cache(PLANS)
def _launches(given: ScanLayout, out: Layout, split: Split, summed: bool) -> list[Launch]:
    """With several parts of time first one that only computes their states."""
    (K, N, _, E), groups = given.u.shape, given.B.shape[3]
    width = E // groups
    options = scan_options(given, given.z is not None and not summed)
    options |= {"BLOCK": split.block, "LANES": split.lanes, "MIN_BLOCKS": 1 if split.lanes > 2 else 4}
    options |= {"TAIL": width % split.block != 0, "OUT": 0 if summed else options["ROW"]}
    view = by_direction("out", out) if summed else by_row("out", out)
    integers = scan_integers(given) | view | {"part_tiles": split.part_tiles}
    shared, threads = _forward_shared(split, given, bool(options["GATED"])), split.block * split.lanes
    blocks, launches = groups * -(-width // split.block), []
    for state_only, parts in ((1, split.parts - 1), (0, split.parts)):
        if parts:
            run = kernel("scan_forward.cu", "scan_forward", **options, STATE_ONLY=state_only, SHARED=shared)
            grid = (blocks, K * N, parts)
            launches.append(run.prepare(grid, threads, shared, given.device, _TENSORS, **integers))
    return launches


def _forward_shared(split: Split, given: ScanLayout, gated: bool) -> int:
    """Bytes of `Shared` in scan_forward.cu."""
    tile, row, mat = TILE * split.block, given.u.dtype.itemsize, given.B.dtype.itemsize
    raw = row * (tile * (3 if gated else 2)) + (0 if gated else 16) + mat * TILE * 2 * STATES
    sums = 4 if split.lanes == 2 else tile * split.lanes
    return 2 * raw + 4 * (2 * tile + TILE * 2 * STATES + 2 * split.block + sums)


_SUM_TENSORS = ("z", "parts", "summed", "out", "grad", "grad_z")


def sum_directions(parts: Tensor, z: Tensor | None, acc: Tensor | None, out: Tensor) -> None:
    device = out.get_device()
    launch = _sum_launch(parts.shape, None if z is None else layout(z), out.dtype, device)
    launch(z, parts, acc, out, None, None)


@lru_cache(PLANS)
def _sum_launch(shape: torch.Size, z: Layout | None, dtype: torch.dtype, device: int) -> Launch:
    K, N, T, E = shape
    gate = {name: value for name, value in by_row("z", z).items() if name != "z_k"}
    integers = gate | {"grad_n": 0, "grad_t": 0, "K": K, "N": N, "T": T, "E": E}
    run = kernel("directions.cu", "sum_directions", ROW=KINDS[dtype])
    return run.prepare((-(-N * T * E // 2048), 1, 1), 256, 0, device, _SUM_TENSORS, **integers)
