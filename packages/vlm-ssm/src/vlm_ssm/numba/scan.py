"""The selective scan on numba's CPU kernels, registered with torch: autograd, checkpointing and compile see one op.

Calls that need no gradient skip the registration, whose dispatch would cost more than a decoding step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_ssm.autograd import scan_with
from vlm_ssm.layouts import check_routes, dense, like, matrix, native
from vlm_ssm.numba.address import address, by_direction, by_row
from vlm_ssm.numba.kernels import scan_backward, scan_forward
from vlm_ssm.numba.kernels.scan_forward import NOWHERE


def _blocks(width: int, groups: int) -> int:
    return groups * -(-(width // groups) // 16)


def _arguments(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None,
    z: Tensor | None, h0: Tensor | None, flags: Tensor | None, routes: Tensor | None, softplus: bool,
    acc: Tensor | None, out: Tensor, last: Tensor | None, starts: Tensor | None,
) -> scan_forward.Scan:  # fmt: skip
    K, N, T, E = u.shape
    return scan_forward.Scan(
        K, N, T, E, A.shape[2], B.shape[3], len(A), int(softplus),
        by_direction(u), by_direction(dt), by_direction(B), by_direction(C),
        by_row(z), by_row(acc), by_row(out),
        address(A), address(bias), address(D), address(flags), address(routes), address(h0), address(last),
        address(starts),
    )  # fmt: skip


def _run(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None,
    z: Tensor | None, h0: Tensor | None, flags: Tensor | None, routes: Tensor | None, softplus: bool,
    separate: bool, train: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """y, last state, and for the backward the ungated sum and the states before each chunk."""
    K, N, T, E = u.shape
    check_routes(routes, T)
    columns, blocks = (K if separate else 1), _blocks(E, B.shape[3])
    out = u.new_empty(N, T, columns, E)
    last = u.new_empty(K, N, E, A.shape[2], dtype=torch.float32)
    keep_sum = (train and z is not None) or columns < K
    acc = torch.empty_like(out, dtype=torch.float32) if keep_sum else None
    chunks = -(-T // scan_forward.CHUNK)
    starts = last.new_empty(K, N, chunks, blocks, A.shape[2], 16) if train else None
    arguments = _arguments(u, dt, A, B, C, D, bias, z, h0, flags, routes, softplus, acc, out, last, starts)
    tasks = N * -(-blocks // scan_forward.GROUP)
    scan_forward.forward(tasks, arguments, floats=scan_forward.working_floats(A.shape[2]))
    return out, last, acc, starts


@torch.library.custom_op("vlm_ssm::numba_scan", mutates_args=())
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
    columns = K if separate else 1
    out = u.new_empty(N, T, columns, E)
    last = u.new_empty(K, N, E, A.shape[2], dtype=torch.float32)
    acc = last.new_empty(out.shape) if z is not None or columns < K else last.new_empty(0)
    chunks = -(-T // scan_forward.CHUNK)
    starts = last.new_empty(K, N, chunks, _blocks(E, B.shape[3]), A.shape[2], 16)
    return out, last, acc, starts


@torch.library.custom_op("vlm_ssm::numba_scan_backward", mutates_args=())
def _backward_op(
    grad_out: Tensor, grad_last: Tensor | None, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, bias: Tensor | None, z: Tensor | None, h0: Tensor | None, flags: Tensor | None,
    routes: Tensor | None, acc: Tensor, starts: Tensor, softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of u, dt, A, B, C, D, bias, z, h0; that of an absent z is empty."""
    (K, N, T, E), S, G = u.shape, A.shape[2], B.shape[3]
    per_group = -(-(E // G) // 16)
    # by shapes alone, so that sums over parts have one order whatever the number of threads
    width = min(32, max(8, -(-K * N * G * per_group // 16)), per_group)
    parts = -(-per_group // width)
    grad_out, grad_last = native(grad_out), None if grad_last is None else dense(grad_last)
    grad_u, grad_dt, grad_z = like(u), like(dt), u.new_empty(0) if z is None else like(z)
    sums_A, sums_D, sums_bias = A.new_empty(K, N, E, S), A.new_empty(K, N, E), A.new_empty(K, N, E)
    grad_h0 = A.new_empty(K, N, E, S)
    sums_B, sums_C = A.new_empty(2, parts, K, N, T, G, S)
    forward = _arguments(
        u, dt, A, B, C, D, bias, z, h0, flags, routes, softplus, acc if acc.numel() else None, grad_out,
        None, starts,
    )  # fmt: skip
    gradient = scan_backward.Gradient(
        width, by_row(grad_out), by_direction(grad_u), by_direction(grad_dt),
        NOWHERE if z is None else by_row(grad_z), address(grad_last), address(sums_B), address(sums_C), address(sums_A),
        address(sums_D), address(sums_bias), address(grad_h0),
    )  # fmt: skip
    floats = scan_backward.working_floats(width, S)
    scan_backward.backward(K * N * G * parts, forward, gradient, floats=floats)
    over = 1 if len(A) > 1 else (0, 1)
    grad_A, grad_D, grad_bias = (t.sum(over).view(len(A), *t.shape[2:]) for t in (sums_A, sums_D, sums_bias))
    return grad_u, grad_dt, grad_A, sums_B.sum(0), sums_C.sum(0), grad_D, grad_bias, grad_z, grad_h0


@_backward_op.register_fake
def _(grad_out, grad_last, u, dt, A, B, C, D, bias, z, h0, flags, routes, acc, starts, softplus):
    per_channel = A.new_empty(A.shape[:2])
    z_like = u.new_empty(0) if z is None else like(z)
    return (
        like(u), like(dt), like(A), like(B), like(C), per_channel, torch.empty_like(per_channel), z_like,
        A.new_empty(*u.shape[:2], *A.shape[1:]),
    )  # fmt: skip


scan = scan_with(_op, _run, _backward_op, matrix)
