"""The selective scan on Triton's kernels, registered with torch: autograd, checkpointing and compile see one op.

Calls that need no gradient skip the registration and keep nothing for a backward.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from vlm_ssm.autograd import scan_with
from vlm_ssm.layouts import check_routes, dense, like, native
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


def _room(length: int) -> int:
    """Whole tiles."""
    return -(-length // ROWS) * ROWS


def _by_time(m: Tensor) -> Tensor:
    """B or C (K, N, T, G, S) -> (K, N, G, S, room): a tile's values lie together, and 0 beyond the end."""
    K, N, T, G, S = m.shape
    room = m.new_empty(K, N, G, S, _room(T))
    room[..., :T] = m.permute(0, 1, 3, 4, 2)
    room[..., T:] = 0
    return room


def _beginnings(first: Tensor | None, ends: Tensor, decay: Tensor, reverse: bool) -> Tensor:
    """What every part begins with; all (K, N, parts, S, E) but for `first` (K, N, S, E)."""
    K, N, parts, S, E = ends.shape
    state = torch.empty_like(ends)
    grid = (triton.cdiv(S * E, 256), K * N)
    scan_forward.chain[grid](first, ends, decay, state, S * E, parts, REVERSE=reverse, BLOCK=256, num_warps=4)
    return state


def _turned(state: Tensor | None) -> Tensor | None:
    """(K, N, E, S) -> (K, N, S, E)."""
    return None if state is None else state.mT.contiguous()


def _one_part(first: Tensor | None, like_: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The state of the only part, in memory of its own, as the kernel changes it."""
    state = like_.new_zeros(shape, dtype=torch.float32)
    return state if first is None else state.copy_(first.unsqueeze(2))


def _run(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None,
    z: Tensor | None, h0: Tensor | None, flags: Tensor | None, routes: Tensor | None, softplus: bool,
    separate: bool, train: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """y, last state, and for the backward the ungated sum and the states before each chunk."""
    (K, N, T, E), S, G = u.shape, A.shape[2], B.shape[3]
    check_routes(routes, T)
    how, columns = split(K * N, T, E, G), (K if separate else 1)
    out, summed = u.new_empty(N, T, columns, E), columns < K
    acc = torch.empty_like(out, dtype=torch.float32) if train and z is not None else None
    starts = out.new_empty(K, N, how.chunks, S, E, dtype=torch.float32) if train else None
    if not out.numel():
        return out, torch.zeros(K, N, E, S, dtype=torch.float32, device=u.device), acc, starts
    ys = out.new_empty(K, N, T, E, dtype=torch.float32) if summed else None
    to, gate = (out, z) if ys is None else (ys, None)
    strides = _by_row(out) if ys is None else _by_direction(ys)
    by_state, shape, room = A.mT.contiguous(), (K, N, how.parts, S, E), _room(T)
    B, C = _by_time(B), _by_time(C)

    def walk(state: Tensor, decay: Tensor | None, output: bool) -> None:
        scan_forward.walk[(how.blocks, how.parts, K * N)](
            u, dt, by_state, B, C, D, bias, gate, flags, routes, state, decay, starts if output else None,
            acc if output and not summed else None, to, *_by_direction(u), *_by_direction(dt),
            *_by_row(gate), *strides, N, T, E, S, E // G, room, how.length, how.chunks,
            SETS=len(A), SOFTPLUS=softplus, OUTPUT=output, BLOCK=how.block, ROWS=ROWS, CHUNK=CHUNK,
            num_warps=how.warps,
        )  # fmt: skip

    first = _turned(h0)
    if how.parts > 1:
        ends, decay = A.new_zeros(shape), A.new_empty(shape)
        walk(ends, decay, False)
        state = _beginnings(first, ends, decay, False)
    else:
        state = _one_part(first, A, shape)
    walk(state, None, True)
    if ys is not None:
        _merge(ys, z, acc, out)
    return out, state[:, :, -1].mT.contiguous(), acc, starts


def _merge(ys: Tensor, z: Tensor | None, acc: Tensor | None, out: Tensor) -> None:
    K, N, T, E = ys.shape
    _, z_n, z_t = _by_row(z)
    grid = (triton.cdiv(E, 1024), N * T)
    scan_forward.merge[grid](ys, z, acc, out, z_n, z_t, N, T, E, K, BLOCK=1024, num_warps=4)


@torch.library.custom_op("vlm_ssm::triton_scan", mutates_args=())
def _op(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None,
    z: Tensor | None, h0: Tensor | None, flags: Tensor | None, routes: Tensor | None, softplus: bool,
    separate: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    out, last, acc, starts = _run(u, dt, A, B, C, D, bias, z, h0, flags, routes, softplus, separate, True)
    assert starts is not None
    return out, last, last.new_empty(0) if acc is None else acc, starts


@_op.register_fake
def _(u, dt, A, B, C, D, bias, z, h0, flags, routes, softplus, separate):
    K, N, T, E = u.shape
    out = u.new_empty(N, T, K if separate else 1, E)
    last = A.new_empty(K, N, E, A.shape[2])
    acc = last.new_empty(0) if z is None else last.new_empty(out.shape)
    return out, last, acc, last.new_empty(K, N, -(-T // CHUNK), A.shape[2], E)


@torch.library.custom_op("vlm_ssm::triton_scan_backward", mutates_args=())
def _backward_op(
    grad_out: Tensor, grad_last: Tensor | None, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, bias: Tensor | None, z: Tensor | None, h0: Tensor | None, flags: Tensor | None,
    routes: Tensor | None, acc: Tensor, starts: Tensor, softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of u, dt, A, B, C, D, bias, z, h0; that of an absent z is empty."""
    (K, N, T, E), S, G = u.shape, A.shape[2], B.shape[3]
    how, grad_out = split(K * N, T, E, G), native(grad_out)
    shape, per_channel = (K, N, how.parts, S, E), A.new_empty(2, K, N, how.parts, E)
    grad_u, grad_dt, grad_z = like(u), like(dt), u.new_empty(0) if z is None else like(z)
    sums_A, matrices = A.new_zeros(shape), A.new_empty(2, how.blocks // G, K, N, G, S, _room(T))
    scratch, by_state = A.new_empty(*shape[:3], CHUNK // ROWS, S, E), A.mT.contiguous()
    first = _turned(None if grad_last is None else dense(grad_last))
    grid, sizes = (how.blocks, how.parts, K * N), (N, T, E, S, E // G, _room(T), how.length)
    B, C = _by_time(B), _by_time(C)
    shared = {"SETS": len(A), "SOFTPLUS": softplus, "BLOCK": how.block, "ROWS": ROWS, "num_warps": how.warps}
    if how.parts > 1:
        ends, decay = A.new_zeros(shape), A.new_empty(shape)
        scan_backward.carries[grid](
            dt, by_state, C, bias, z, flags, routes, grad_out, ends, decay, *_by_direction(dt), *_by_row(z),
            *_by_row(grad_out), *sizes, **shared,
        )  # fmt: skip
        carry = _beginnings(first, ends, decay, True)
    else:
        carry = _one_part(first, A, shape)
    if grad_u.numel():
        scan_backward.backward[grid](
            u, dt, by_state, B, C, D, bias, z, flags, routes, acc if acc.numel() else None, starts, scratch, carry,
            grad_out, grad_u, grad_dt, grad_z, sums_A, *matrices, *per_channel, *_by_direction(u), *_by_direction(dt),
            *_by_row(z), *_by_row(grad_out), *_by_row(acc if acc.numel() else None),
            *sizes, how.chunks, CHUNK=CHUNK, **shared,
        )  # fmt: skip
    over = (1, 2) if len(A) > 1 else (0, 1, 2)
    grad_A = sums_A.sum(over).view(len(A), S, E).mT.contiguous()
    grad_D, grad_bias = (sums.sum(over).view(len(A), E) for sums in per_channel)
    grad_B, grad_C = (sums.sum(0)[..., :T].permute(0, 1, 4, 2, 3).contiguous() for sums in matrices)
    return grad_u, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_bias, grad_z, carry[:, :, 0].mT.contiguous()


@_backward_op.register_fake
def _(grad_out, grad_last, u, dt, A, B, C, D, bias, z, h0, flags, routes, acc, starts, softplus):
    per_channel = A.new_empty(A.shape[:2])
    return (
        like(u), like(dt), like(A), like(B), like(C), per_channel, torch.empty_like(per_channel),
        u.new_empty(0) if z is None else like(z), A.new_empty(*u.shape[:2], *A.shape[1:]),
    )  # fmt: skip


scan = scan_with(_op, _run, _backward_op, torch.Tensor.float)
