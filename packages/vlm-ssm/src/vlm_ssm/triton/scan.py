"""The selective scan on Triton's kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from vlm_ssm.registration.inputs import ScanGradients, ScanInputs
from vlm_ssm.registration.layouts import check_scan_order, dense, gate, like, native
from vlm_ssm.registration.scan_op import ScanKernels, registered_scan
from vlm_ssm.triton.kernels import scan_backward, scan_forward
from vlm_ssm.triton.kernels.scan_forward import CHUNK, ROWS

BLOCK = 64  # channels of a program, which is one warp
PROGRAMS = 1024  # with fewer, time is divided, too


class Split(NamedTuple):
    """How the work is divided: channels a program, programs for all channels, parts of time, positions of each."""

    block: int
    blocks: int
    parts: int
    length: int
    chunks: int

    @property
    def warps(self) -> int:
        return max(1, self.block // 64)


def split(sequences: int, length: int, width: int, groups: int) -> Split:
    """By shapes alone, so that sums have one order."""
    own = width // groups
    block = min(BLOCK, triton.next_power_of_2(own))
    blocks, chunks = groups * -(-own // block), -(-length // CHUNK)
    parts = min(chunks, -(-PROGRAMS // max(1, blocks * sequences)))
    parts = 1 if parts == 2 else parts  # the states of two parts cost more than they save
    each = -(-chunks // max(1, parts))
    return Split(block, blocks, -(-chunks // max(1, each)), each * CHUNK, chunks)


def _offsets(t: Tensor | None, outer: int, seq: int, row: int) -> tuple[int, int, int]:
    """Strides over directions, sequences and positions, whose dimensions are given; 0 over a single direction."""
    if t is None:
        return 0, 0, 0
    return t.stride(outer) if t.shape[outer] > 1 else 0, t.stride(seq), t.stride(row)


def _by_direction(t: Tensor) -> tuple[int, int, int]:
    """(K, B, T, …)."""
    return _offsets(t, 0, 1, 2)


def _by_row(t: Tensor | None) -> tuple[int, int, int]:
    """(B, T, J, E)."""
    return _offsets(t, 2, 0, 1)


def _padded_len(length: int) -> int:
    """Whole tiles."""
    return -(-length // ROWS) * ROWS


def _by_time(m: Tensor) -> Tensor:
    """B or C (K, N, T, G, S) -> (K, N, G, S, padded_len): a tile's values lie together, and 0 beyond the end."""
    K, N, T, G, S = m.shape
    padded = m.new_empty(K, N, G, S, _padded_len(T))
    padded[..., :T] = m.permute(0, 1, 3, 4, 2)
    padded[..., T:] = 0
    return padded


def _initial_states(first: Tensor | None, ends: Tensor, decay: Tensor, reverse: bool) -> Tensor:
    """What every part begins with; all (K, N, parts, S, E) but for `first` (K, N, S, E)."""
    K, N, parts, S, E = ends.shape
    state = torch.empty_like(ends)
    grid = (triton.cdiv(S * E, 256), K * N)
    scan_forward.combine_chunks[grid](
        first, ends, decay, state, S * E, parts, REVERSE=reverse, BLOCK=256, num_warps=4
    )
    return state


def _transposed(state: Tensor | None) -> Tensor | None:
    """(K, N, E, S) -> (K, N, S, E)."""
    return None if state is None else state.mT.contiguous()


def _one_part(first: Tensor | None, like_: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The state of the only part, in memory of its own, as the kernel changes it."""
    state = like_.new_zeros(shape, dtype=torch.float32)
    return state if first is None else state.copy_(first.unsqueeze(2))


def _run(inputs: ScanInputs, train: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """y, last state, and for the backward the ungated sum and the states before each chunk."""
    u, A, z = inputs.u, inputs.A, inputs.z
    (K, N, T, E), S, G = u.shape, A.shape[2], inputs.B.shape[3]
    check_scan_order(inputs.scan_order, T)
    how, columns = split(K * N, T, E, G), (K if inputs.keep_directions else 1)
    out, summed = u.new_empty(N, T, columns, E), columns < K
    acc = torch.empty_like(out, dtype=torch.float32) if train and z is not None else None
    starts = out.new_empty(K, N, how.chunks, S, E, dtype=torch.float32) if train else None
    if not out.numel():
        return out, torch.zeros(K, N, E, S, dtype=torch.float32, device=u.device), acc, starts
    ys = out.new_empty(K, N, T, E, dtype=torch.float32) if summed else None
    state = _scan_parts(inputs, how, starts, None if summed else acc, out if ys is None else ys)
    if ys is not None:
        _merge(ys, z, acc, out)
    return out, state[:, :, -1].mT.contiguous(), acc, starts


def _scan_parts(
    inputs: ScanInputs, how: Split, starts: Tensor | None, acc: Tensor | None, to: Tensor
) -> Tensor:
    """y of each direction to `to`: gated rows (N, T, J, E), or without gate (K, N, T, E); the state after each part."""
    u, dt, A, B, C, D, bias, z, h0, reset, scan_order, softplus, keep_directions = inputs
    (K, N, T, E), S, G = u.shape, A.shape[2], B.shape[3]
    rows = keep_directions or K == 1
    gate, strides = (z, _by_row(to)) if rows else (None, _by_direction(to))
    by_state, shape, padded_len = A.mT.contiguous(), (K, N, how.parts, S, E), _padded_len(T)
    B, C = _by_time(B), _by_time(C)

    def scan_parts(state: Tensor, decay: Tensor | None, output: bool) -> None:
        scan_forward.scan_chunks[(how.blocks, how.parts, K * N)](
            u, dt, by_state, B, C, D, bias, gate, reset, scan_order, state, decay, starts if output else None,
            acc if output else None, to, *_by_direction(u), *_by_direction(dt),
            *_by_row(gate), *strides, N, T, E, S, E // G, padded_len, how.length, how.chunks,
            SETS=len(A), SOFTPLUS=softplus, OUTPUT=output, BLOCK=how.block, ROWS=ROWS, CHUNK=CHUNK,
            num_warps=how.warps,
        )  # fmt: skip

    first = _transposed(h0)
    if how.parts > 1:
        ends, decay = A.new_zeros(shape), A.new_empty(shape)
        scan_parts(ends, decay, False)
        state = _initial_states(first, ends, decay, False)
    else:
        state = _one_part(first, A, shape)
    scan_parts(state, None, True)
    return state


def _merge(ys: Tensor, z: Tensor | None, acc: Tensor | None, out: Tensor) -> None:
    K, N, T, E = ys.shape
    _, z_n, z_t = _by_row(z)
    grid = (triton.cdiv(E, 1024), N * T)
    scan_forward.merge[grid](ys, z, acc, out, z_n, z_t, N, T, E, K, BLOCK=1024, num_warps=4)


def _part_gradients(inputs: ScanInputs, how: Split, grad_out: Tensor, grad_last: Tensor | None) -> Tensor:
    """What the state at the end of each part gets from the parts after it, (K, N, parts, S, E); C as `_by_time`."""
    u, dt, A, _, C, _, bias, z, _, reset, scan_order, softplus, _ = inputs
    (K, N, T, E), S, G = u.shape, A.shape[2], C.shape[2]
    shape = (K, N, how.parts, S, E)
    first = _transposed(None if grad_last is None else dense(grad_last))
    if how.parts == 1:
        return _one_part(first, A, shape)
    ends, decay = A.new_zeros(shape), A.new_empty(shape)
    scan_backward.reverse_carries[(how.blocks, how.parts, K * N)](
        dt, A.mT.contiguous(), C, bias, z, reset, scan_order, grad_out, ends, decay, *_by_direction(dt), *_by_row(z),
        *_by_row(grad_out), N, T, E, S, E // G, _padded_len(T), how.length,
        SETS=len(A), SOFTPLUS=softplus, BLOCK=how.block, ROWS=ROWS, num_warps=how.warps,
    )  # fmt: skip
    return _initial_states(first, ends, decay, True)


def _backward(inputs: ScanInputs, given: ScanGradients) -> tuple[Tensor, ...]:
    """As `ScanKernels.backward`."""
    (K, N, T, E), S, G = inputs.u.shape, inputs.A.shape[2], inputs.B.shape[3]
    inputs = inputs._replace(B=_by_time(inputs.B), C=_by_time(inputs.C))
    u, dt, A, B, C, D, bias, z, _, reset, scan_order, softplus, _ = inputs
    how, grad_out, acc = split(K * N, T, E, G), native(given.grad_out), given.acc
    shape, per_channel = (K, N, how.parts, S, E), A.new_empty(2, K, N, how.parts, E)
    grad_u, grad_dt, own_grad_z = like(u), like(dt), u.new_empty(0) if z is None else like(z)
    if given.y is not None:
        gate(acc, z, given.y)
    sums_A, matrices = A.new_zeros(shape), A.new_empty(2, how.blocks // G, K, N, G, S, _padded_len(T))
    scratch = A.new_empty(*shape[:3], CHUNK // ROWS, S, E)
    carry = _part_gradients(inputs, how, grad_out, given.grad_last)
    if grad_u.numel():
        scan_backward.backward[(how.blocks, how.parts, K * N)](
            u, dt, A.mT.contiguous(), B, C, D, bias, z, reset, scan_order, acc, given.starts, scratch, carry,
            grad_out, grad_u, grad_dt, own_grad_z, sums_A, *matrices, *per_channel, *_by_direction(u),
            *_by_direction(dt), *_by_row(z), *_by_row(grad_out), *_by_row(acc),
            N, T, E, S, E // G, _padded_len(T), how.length, how.chunks, CHUNK=CHUNK,
            SETS=len(A), SOFTPLUS=softplus, BLOCK=how.block, ROWS=ROWS, num_warps=how.warps,
        )  # fmt: skip
    over = (1, 2) if len(A) > 1 else (0, 1, 2)
    grad_A = sums_A.sum(over).view(len(A), S, E).mT.contiguous()
    grad_D, grad_bias = (sums.sum(over).view(len(A), E) for sums in per_channel)
    grad_B, grad_C = (sums.sum(0)[..., :T].permute(0, 1, 4, 2, 3).contiguous() for sums in matrices)
    grad_z = own_grad_z if given.grad_z is None else given.grad_z.copy_(own_grad_z)
    return grad_u, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_bias, grad_z, carry[:, :, 0].mT.contiguous()


def _kept(inputs: ScanInputs) -> tuple[tuple[int, ...], tuple[int, ...]]:
    K, N, T, E = inputs.u.shape
    acc = () if inputs.z is None else (N, T, K if inputs.keep_directions else 1, E)
    return acc, (K, N, -(-T // CHUNK), inputs.A.shape[2], E)


KERNELS = ScanKernels(_run, _backward, _kept, torch.Tensor.float)
scan = registered_scan("triton", KERNELS)
