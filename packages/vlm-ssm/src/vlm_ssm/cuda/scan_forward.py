"""Launches of the forward scan."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from vlm_ssm.cuda.launch import kernel
from vlm_ssm.cuda.memory import KINDS, by_row
from vlm_ssm.cuda.parts import divide
from vlm_ssm.cuda.scan_inputs import STATES, TILE, scan_arguments, scan_options
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


def run_forward(
    inputs: ScanInputs, out: dict[str, Any], last: Tensor, starts: Tensor | None, summed: bool
) -> None:
    (K, N, T, E), groups = inputs.u.shape, inputs.B.shape[3]
    width, device = E // groups, inputs.u.device.index
    split = forward_split(K * N, T, width, groups)
    options = scan_options(inputs, inputs.z is not None and not summed)
    options |= {"BLOCK": split.block, "LANES": split.lanes, "MIN_BLOCKS": 1 if split.lanes > 2 else 4}
    options |= {"TAIL": width % split.block != 0, "OUT": 0 if summed else options["ROW"]}
    ends = decays = None
    if split.parts > 1:
        ends, decays = last.new_empty(2, K, N, split.parts, E, STATES).unbind()
    values = scan_arguments(inputs) | out | {"first": inputs.h0, "last": last, "starts": starts}
    values |= {"ends": ends, "decays": decays, "part_tiles": split.part_tiles}
    shared, threads = _forward_shared(split, inputs, bool(options["GATED"])), split.block * split.lanes
    blocks = groups * -(-width // split.block)
    for state_only, parts in ((1, split.parts - 1), (0, split.parts)):
        if parts:
            run = kernel("scan_forward.cu", "scan_forward", **options, STATE_ONLY=state_only, SHARED=shared)
            run((blocks, K * N, parts), threads, shared, device, **values)


def _forward_shared(split: Split, inputs: ScanInputs, gated: bool) -> int:
    """Bytes of `Shared` in scan_forward.cu."""
    tile, row, mat = TILE * split.block, inputs.u.element_size(), inputs.B.element_size()
    raw = row * (tile * (3 if gated else 2)) + (0 if gated else 16) + mat * TILE * 2 * STATES
    sums = 4 if split.lanes == 2 else tile * split.lanes
    return 2 * raw + 4 * (2 * tile + TILE * 2 * STATES + 2 * split.block + sums)


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
