"""The selective scan on Triton's kernels, registered as a torch custom op for autograd and torch.compile.

Calls that need no gradient bypass the custom op and save nothing for a backward.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from vlm_ssm.registration.autograd import BACKWARD, FORWARD, like_inputs, scan_with
from vlm_ssm.registration.inputs import ScanInputs
from vlm_ssm.registration.layouts import check_scan_order, dense, like, native
from vlm_ssm.triton.kernels import scan_backward, scan_forward
from vlm_ssm.triton.kernels.scan_forward import CHUNK, ROWS
from vlm_ssm.triton.kernels.tile import Inputs, Rows, Sizes

BLOCK = 64  # channels of a program, which is one warp
PROGRAMS = 1024  # with fewer, time is split into parts as well


class Split(NamedTuple):
    """Channels of a program, programs for all channels, parts of time, positions of a part, chunks of all positions."""

    block: int
    blocks: int
    parts: int
    length: int
    chunks: int

    @property
    def warps(self) -> int:
        return max(1, self.block // 64)


def split(sequences: int, length: int, width: int, groups: int) -> Split:
    """From shapes alone, so that the order of sums depends on nothing else."""
    per_group = width // groups
    block = min(BLOCK, triton.next_power_of_2(per_group))
    blocks, chunks = groups * -(-per_group // block), -(-length // CHUNK)
    parts = min(chunks, -(-PROGRAMS // max(1, blocks * sequences)))
    parts = 1 if parts == 2 else parts  # the states of two parts cost more than they save
    each = -(-chunks // max(1, parts))
    return Split(block, blocks, -(-chunks // max(1, each)), each * CHUNK, chunks)


def _rows(t: Tensor | None, outer: int, seq: int, row: int) -> Rows:
    """t with its strides over the dimensions of directions (0 if there is one), sequences and positions."""
    if t is None:
        return Rows(None, 0, 0, 0)
    return Rows(t, t.stride(outer) if t.shape[outer] > 1 else 0, t.stride(seq), t.stride(row))


def _by_direction(t: Tensor) -> Rows:
    """(K, B, T, …)."""
    return _rows(t, 0, 1, 2)


def _by_row(t: Tensor | None) -> Rows:
    """(B, T, J, E)."""
    return _rows(t, 2, 0, 1)


def _padded_len(length: int) -> int:
    """Rounded up to whole tiles."""
    return -(-length // ROWS) * ROWS


def _by_time(m: Tensor) -> Tensor:
    """B or C (K, N, T, G, S) -> (K, N, G, S, padded_len): a tile's values are contiguous, 0 beyond the end."""
    K, N, T, G, S = m.shape
    padded = m.new_empty(K, N, G, S, _padded_len(T))
    padded[..., :T] = m.permute(0, 1, 3, 4, 2)
    padded[..., T:] = 0
    return padded


def _kernel_inputs(inputs: ScanInputs, z: Tensor | None) -> Inputs:
    """The kernels' view of the inputs, whose B and C have the layout of `_by_time`."""
    u, dt, A, B, C, D, bias, _, _, reset, scan_order, _, _ = inputs
    by_state = A.mT.contiguous()
    return Inputs(_by_direction(u), _by_direction(dt), by_state, B, C, D, bias, _by_row(z), reset, scan_order)


def _sizes(inputs: ScanInputs, how: Split) -> Sizes:
    (_, N, T, E), S, G = inputs.u.shape, inputs.A.shape[2], inputs.B.shape[2]
    return Sizes(N, T, E, S, E // G, _padded_len(T), how.length, how.chunks)


def _initial_states(first: Tensor | None, ends: Tensor, decay: Tensor, reverse: bool) -> Tensor:
    """The state before every part; all (K, N, parts, S, E) but `first` (K, N, S, E)."""
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
    """The state of the only part, as a copy: the kernel overwrites it."""
    state = like_.new_zeros(shape, dtype=torch.float32)
    return state if first is None else state.copy_(first.unsqueeze(2))


def _run(inputs: ScanInputs, train: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """y, last state, and, to `train`, the sum before the gate and the state before each chunk."""
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
    inputs = inputs._replace(B=_by_time(inputs.B), C=_by_time(inputs.C))
    if ys is None:
        state = _scan_parts(inputs, how, starts, acc, _by_row(out))
    else:
        state = _scan_parts(inputs._replace(z=None), how, starts, None, _by_direction(ys))
        _merge(ys, z, acc, out)
    return out, state[:, :, -1].mT.contiguous(), acc, starts


def _scan_parts(
    inputs: ScanInputs, how: Split, starts: Tensor | None, acc: Tensor | None, out: Rows
) -> Tensor:
    """y to `out`, and before the gate to `acc`, which has its strides -> the state after each part."""
    (K, N, _, E), A = inputs.u.shape, inputs.A
    shape, sizes = (K, N, how.parts, A.shape[2], E), _sizes(inputs, how)
    tensors = _kernel_inputs(inputs, inputs.z)

    def scan_chunks(state: Tensor, decay: Tensor | None, output: bool) -> None:
        scan_forward.scan_chunks[(how.blocks, how.parts, K * N)](
            tensors,
            out,
            acc if output else None,
            state,
            decay,
            starts if output else None,
            sizes,
            SETS=len(A),
            SOFTPLUS=inputs.softplus,
            OUTPUT=output,
            BLOCK=how.block,
            ROWS=ROWS,
            CHUNK=CHUNK,
            num_warps=how.warps,
        )

    first = _transposed(inputs.h0)
    if how.parts > 1:
        ends, decay = A.new_zeros(shape), A.new_empty(shape)
        scan_chunks(ends, decay, False)
        state = _initial_states(first, ends, decay, False)
    else:
        state = _one_part(first, A, shape)
    scan_chunks(state, None, True)
    return state


def _merge(ys: Tensor, z: Tensor | None, acc: Tensor | None, out: Tensor) -> None:
    K, N, T, E = ys.shape
    grid = (triton.cdiv(E, 1024), N * T)
    scan_forward.merge[grid](ys, _by_row(z), acc, out, (N, T, E), K, BLOCK=1024, num_warps=4)


def _forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out, last, acc, starts = _run(ScanInputs(*inputs), True)
    assert starts is not None
    return out, last, last.new_empty(0) if acc is None else acc, starts


_op = torch.library.custom_op("vlm_ssm::triton_scan", _forward, mutates_args=(), schema=FORWARD)


@_op.register_fake
def _(*inputs: Any):
    u, _, A, _, _, _, _, z, *_, keep_directions = inputs
    K, N, T, E = u.shape
    out = u.new_empty(N, T, K if keep_directions else 1, E)
    last = A.new_empty(K, N, E, A.shape[2])
    acc = last.new_empty(0) if z is None else last.new_empty(out.shape)
    return out, last, acc, last.new_empty(K, N, -(-T // CHUNK), A.shape[2], E)


def _carries(inputs: ScanInputs, how: Split, grad_out: Tensor, grad_last: Tensor | None) -> Tensor:
    """Gradient of the state after each part, (K, N, parts, S, E); B and C have the layout of `_by_time`."""
    (K, N, _, E), A = inputs.u.shape, inputs.A
    shape = (K, N, how.parts, A.shape[2], E)
    first = _transposed(None if grad_last is None else dense(grad_last))
    if how.parts == 1:
        return _one_part(first, A, shape)
    ends, decay = A.new_zeros(shape), A.new_empty(shape)
    scan_backward.reverse_carries[(how.blocks, how.parts, K * N)](
        _kernel_inputs(inputs, inputs.z),
        _by_row(grad_out),
        ends,
        decay,
        _sizes(inputs, how),
        SETS=len(A),
        SOFTPLUS=inputs.softplus,
        BLOCK=how.block,
        ROWS=ROWS,
        num_warps=how.warps,
    )
    return _initial_states(first, ends, decay, True)


def _empty_gradients(inputs: ScanInputs, how: Split) -> scan_backward.Gradients:
    """Memory for what the kernel writes; B and C have the layout of `_by_time`."""
    (K, N, _, E), A, z = inputs.u.shape, inputs.A, inputs.z
    _, _, G, S, padded_len = inputs.B.shape
    grad_B, grad_C = A.new_empty(2, how.blocks // G, K, N, G, S, padded_len)
    grad_D, grad_bias = A.new_empty(2, K, N, how.parts, E)
    grad_z = inputs.u.new_empty(0) if z is None else like(z)
    grad_A = A.new_zeros(K, N, how.parts, S, E)
    return scan_backward.Gradients(
        like(inputs.u), like(inputs.dt), grad_z, grad_A, grad_B, grad_C, grad_D, grad_bias
    )


def _backward(grad_out: Tensor, grad_last: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of u, dt, A, B, C, D, bias, z, h0; empty for an absent z."""
    *fields, acc, starts = arguments
    inputs = ScanInputs(*fields)
    (K, N, T, E), S, A = inputs.u.shape, inputs.A.shape[2], inputs.A
    how, grad_out = split(K * N, T, E, inputs.B.shape[3]), native(grad_out)
    inputs = inputs._replace(B=_by_time(inputs.B), C=_by_time(inputs.C))
    grads = _empty_gradients(inputs, how)
    carry = _carries(inputs, how, grad_out, grad_last)
    if grads.u.numel():
        scan_backward.backward[(how.blocks, how.parts, K * N)](
            _kernel_inputs(inputs, inputs.z),
            _by_row(grad_out),
            _by_row(acc if acc.numel() else None),
            starts,
            A.new_empty(K, N, how.parts, CHUNK // ROWS, S, E),
            carry,
            grads,
            _sizes(inputs, how),
            SETS=len(A),
            SOFTPLUS=inputs.softplus,
            BLOCK=how.block,
            ROWS=ROWS,
            CHUNK=CHUNK,
            num_warps=how.warps,
        )
    over = (1, 2) if len(A) > 1 else (0, 1, 2)
    grad_A = grads.A.sum(over).view(len(A), S, E).mT.contiguous()
    grad_D, grad_bias = (sums.sum(over).view(len(A), E) for sums in (grads.D, grads.bias))
    grad_B, grad_C = (sums.sum(0)[..., :T].permute(0, 1, 4, 2, 3).contiguous() for sums in (grads.B, grads.C))
    grad_h0 = carry[:, :, 0].mT.contiguous()
    return grads.u, grads.dt, grad_A, grad_B, grad_C, grad_D, grad_bias, grads.z, grad_h0


_backward_op = torch.library.custom_op(
    "vlm_ssm::triton_scan_backward", _backward, mutates_args=(), schema=BACKWARD
)
_backward_op.register_fake(like_inputs)


scan = scan_with(_op, _run, _backward_op, torch.Tensor.float)
