"""Launches of the forward scan."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from vlm_ssm.cuda.launch import PLANS, Launch, kernel
from vlm_ssm.cuda.memory import KINDS, Layout, by_direction, by_row, layout
from vlm_ssm.cuda.scan_inputs import (
    TENSORS,
    TILE,
    ScanLayout,
    scan_integers,
    scan_layout,
    scan_options,
    scan_tensors,
)
from vlm_ssm.cuda.shapes.parts import MULTIPROCESSORS, divide
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
    if states == 16 and channels >= 5120 and tiles <= 32:  # likewise, over a short time
        return Split(32, 4, 1, tiles)
    return Split(block, lanes, *divide(tiles, sequences * groups * -(-width // block), 4))


_TENSORS = (*TENSORS, "first", "out", "last", "starts", "ends", "decays", "acc", "done")


def _split_of(inputs: ScanInputs) -> Split:
    (K, N, T, E), groups = inputs.u.shape, inputs.B.shape[3]
    return forward_split(K * N, T, E // groups, groups, inputs.A.shape[2], inputs.u.element_size())


def can_chain(inputs: ScanInputs) -> bool:
    """Whether directions add up within one launch.

    The blocks of one direction must fill the GPU: then those of the next, which wait for them, start when they end.
    """
    (_, N, _, E), groups, split = inputs.u.shape, inputs.B.shape[3], _split_of(inputs)
    blocks = N * groups * -(-(E // groups) // split.block)
    return split.parts == 1 and blocks * split.block * split.lanes >= MULTIPROCESSORS * RESIDENT


def run_forward(
    inputs: ScanInputs,
    out: Tensor,
    last: Tensor,
    starts: Tensor | None,
    summed: bool,
    acc: Tensor | None = None,
    keep: bool = False,
) -> None:
    """y to `out`: gated rows (N, T, J, E), or, of directions that will be `summed`, fp32 (K, N, T, E).

    With `acc` (N, T, E), in fp32, they are summed there, and `out` is gated; `acc` is the sum afterwards if `keep`.
    """
    (K, N, _, E), groups, split = inputs.u.shape, inputs.B.shape[3], _split_of(inputs)
    ends = decays = None
    if split.parts > 1:
        ends, decays = last.new_empty(2, K, N, split.parts, E, inputs.A.shape[2]).unbind()
    blocks, done = groups * -(-(E // groups) // split.block), None
    if acc is not None:
        done = last.new_zeros(N, blocks, dtype=torch.int32)
    tensors = (*scan_tensors(inputs), inputs.h0, out, last, starts, ends, decays, acc, done)
    chained = None if acc is None else keep
    for launch in _launches(scan_layout(inputs), layout(out), split, summed, chained):
        launch(*tensors)


@lru_cache(PLANS)
def _launches(
    given: ScanLayout, out: Layout, split: Split, summed: bool, chained: bool | None
) -> list[Launch]:
    """With several parts of time first one that only computes their states. `chained`: whether `acc` is kept."""
    (K, N, _, E), groups = given.u.shape, given.B.shape[3]
    width, apart = E // groups, summed and chained is None
    options = scan_options(given, given.z is not None and not apart)
    shared, threads = _forward_shared(split, given, bool(options["GATED"])), split.block * split.lanes
    options |= {
        "BLOCK": split.block,
        "LANES": split.lanes,
        "MIN_BLOCKS": _min_blocks(split, given.states, shared),
    }
    options |= {"TAIL": width % split.block != 0, "OUT": 0 if apart else options["ROW"]}
    options["CHAINED"] = chained is not None
    view = by_direction("out", out) if apart else by_row("out", out)
    integers = scan_integers(given) | view | {"part_tiles": split.part_tiles, "K": K, "keep": bool(chained)}
    blocks, launches = groups * -(-width // split.block), []
    for state_only, parts in ((1, split.parts - 1), (0, split.parts)):
        if parts:
            run = kernel("scan_forward.cu", "scan_forward", **options, STATE_ONLY=state_only, SHARED=shared)
            grid = (blocks, K * N, parts)
            launches.append(run.prepare(grid, threads, shared, given.device, _TENSORS, **integers))
    return launches


def _min_blocks(split: Split, states: int, shared: int) -> int:
    """Blocks of a multiprocessor that registers must suffice for: 128 a thread where a lane has many states."""
    if states // split.lanes < 8 and split.lanes > 2:
        return 1
    return max(1, min(RESIDENT // (split.block * split.lanes), SHARED_MEMORY // shared))


def _forward_shared(split: Split, given: ScanLayout, gated: bool) -> int:
    """Bytes of `Shared` in scan_forward.cu."""
    tile, row, mat = TILE * split.block, given.u.dtype.itemsize, given.B.dtype.itemsize
    matrices = TILE * 2 * given.states
    raw = row * (tile * (3 if gated else 2)) + (0 if gated else 16) + mat * matrices
    sums = 4 if split.lanes == 2 else tile * split.lanes
    behind = max(split.block, 2 * given.states - split.block)
    return 2 * raw + 4 * (2 * tile + matrices + split.block + behind + sums)


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
