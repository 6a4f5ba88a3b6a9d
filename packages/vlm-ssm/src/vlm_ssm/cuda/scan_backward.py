"""Launches of the backward scan."""

from __future__ import annotations

from torch import Tensor

from vlm_ssm.cuda.launch import kernel
from vlm_ssm.cuda.memory import KINDS, by_row
from vlm_ssm.cuda.parts import divide
from vlm_ssm.cuda.scan_inputs import STATES, TILE, scan_arguments, scan_options
from vlm_ssm.registration.inputs import ScanInputs

WARPS = 4  # of a block, 16 channels each


def backward_parts(sequences: int, length: int, width: int, groups: int = 1) -> tuple[int, int]:
    """Parts of time and chunks of each."""
    return divide(-(-length // TILE), sequences * groups * -(-width // (16 * WARPS)), 3)


def run_backward(
    inputs: ScanInputs,
    grad_out: Tensor,
    grad_last: Tensor | None,
    starts: Tensor,
    results: tuple[Tensor, Tensor, Tensor, Tensor],
    summed: bool,
    y: Tensor | None = None,
) -> tuple[int, Tensor, Tensor]:
    """Parts of time; what blocks give to B and C, (blocks, K, N, T, G, 32); what parts give to A, D and bias."""
    (K, N, T, E), groups, z = inputs.u.shape, inputs.B.shape[3], inputs.z
    grad_u, grad_dt, grad_z, grad_h0 = results
    width, new = E // groups, starts.new_empty
    per_group, (parts, part_chunks) = -(-width // (16 * WARPS)), backward_parts(K * N, T, width, groups)
    ends, decays = new(2, K, N, parts, E, STATES).unbind() if parts > 1 else (None, None)
    matrices = new(per_group, K, N, T, groups, 2 * STATES)
    sums = new(K, N, parts, (STATES + 2) * E)
    own_gate = z is not None and not summed
    options = scan_options(inputs, z is not None) | {"OWN_GATE": own_gate, "WARPS": WARPS}
    options["WRITE_Y"] = y is not None
    options["TAIL"] = width % (16 * WARPS) != 0
    values = (
        scan_arguments(inputs) | by_row("grad", grad_out) | by_row("grad_z", grad_z if own_gate else None)
    )
    values |= {"grad_last": grad_last, "starts": starts, "grad_u": grad_u, "grad_dt": grad_dt, "sums": sums}
    values |= {"matrices": matrices, "grad_first": grad_h0, "ends": ends, "decays": decays}
    values |= {"part_chunks": part_chunks, "y": y}
    blocks, device = groups * per_group, inputs.u.device.index
    matrix_bytes, tiles = TILE * 128 + WARPS * 64, TILE // 4
    if parts > 1:
        shared = WARPS * (TILE * 192 + 128) + matrix_bytes
        run = kernel("scan_backward.cu", "scan_backward", **options, CARRY=1, MIN_BLOCKS=4, SHARED=shared)
        run((blocks, K * N, parts - 1), 32 * WARPS, shared, device, **values)
    shared = WARPS * (TILE * 192 + tiles * 1024 + 1024 + 2048) + matrix_bytes
    run = kernel("scan_backward.cu", "scan_backward", **options, CARRY=0, MIN_BLOCKS=3, SHARED=shared)
    run((blocks, K * N, parts), 32 * WARPS, shared, device, **values)
    return parts, matrices, sums


def gate_backward(acc: Tensor, z: Tensor, grad_out: Tensor, grad_z: Tensor) -> None:
    N, T, E = acc.shape
    views = by_row("z", z) | by_row("grad", grad_out)
    values = {n: v for n, v in views.items() if not n.endswith("_k")} | {"parts": None, "out": None}
    run = kernel("directions.cu", "gate_backward", ROW=KINDS[z.dtype])
    device = z.device.index
    run(
        (-(-N * T * E // 2048), 1, 1), 256, 0, device, summed=acc, grad_z=grad_z, K=1, N=N, T=T, E=E, **values
    )
