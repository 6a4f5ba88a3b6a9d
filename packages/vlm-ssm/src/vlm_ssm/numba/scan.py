"""The selective scan on numba's CPU kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_ssm.numba.address import address, by_direction, by_row
from vlm_ssm.numba.kernels import scan_backward, scan_forward
from vlm_ssm.numba.kernels.scan_forward import NULL_VIEW
from vlm_ssm.registration.inputs import ScanGradients, ScanInputs
from vlm_ssm.registration.layouts import check_scan_order, dense, gate, like, matrix, native
from vlm_ssm.registration.scan_op import ScanKernels, registered_scan
from vlm_ssm.runtime.huge_pages import with_huge_pages


def _blocks(width: int, groups: int) -> int:
    return groups * -(-(width // groups) // 16)


def _arguments(
    inputs: ScanInputs, acc: Tensor | None, out: Tensor, last: Tensor | None, starts: Tensor | None
) -> scan_forward.Scan:
    u, dt, A, B, C, D, bias, z, h0, reset, scan_order, softplus, _ = inputs
    K, N, T, E = u.shape
    views = (by_direction(u), by_direction(dt), by_direction(B), by_direction(C))
    outputs = (by_row(z), by_row(acc), by_row(out))
    addresses = map(address, (A, bias, D, reset, scan_order, h0, last, starts))
    return scan_forward.Scan(
        K, N, T, E, A.shape[2], B.shape[3], len(A), int(softplus), *views, *outputs, *addresses
    )


def run(
    inputs: ScanInputs, train: bool, out: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """As `ScanKernels.forward`; y is written to `out` (B, T, J, E) if given."""
    u, states = inputs.u, inputs.A.shape[2]
    K, N, T, E = u.shape
    check_scan_order(inputs.scan_order, T)
    columns, blocks = (K if inputs.keep_directions else 1), _blocks(E, inputs.B.shape[3])
    if out is None and train:
        out = with_huge_pages(u.new_empty(N, T, columns, E))
    elif (
        out is None
    ):  # K·E numbers from row to row are often a multiple of 4 KB: the same lines of the L1 cache
        out = with_huge_pages(u.new_empty(columns, N, T, E)).permute(1, 2, 0, 3)
    last = u.new_empty(K, N, E, states, dtype=torch.float32)
    keep_sum = (train and inputs.z is not None) or columns < K
    acc = with_huge_pages(torch.empty_like(out, dtype=torch.float32)) if keep_sum else None
    chunks = -(-T // scan_forward.CHUNK)
    starts = with_huge_pages(last.new_empty(K, N, chunks, blocks, states, 16)) if train else None
    arguments = _arguments(inputs, acc, out, last, starts)
    tasks = N * -(-blocks // scan_forward.GROUP)
    scan_forward.forward(tasks, arguments, floats=scan_forward.scratch_floats(states))
    return out, last, acc, starts


def _backward(inputs: ScanInputs, given: ScanGradients) -> tuple[Tensor, ...]:
    """As `ScanKernels.backward`."""
    (K, N, T, E), S, G = inputs.u.shape, inputs.A.shape[2], inputs.B.shape[3]
    per_group = -(-(E // G) // 16)
    # from shapes alone, so that the order of sums does not depend on the number of threads
    width = min(32, max(8, -(-K * N * G * per_group // 16)), per_group)
    parts = -(-per_group // width)
    grad_out, grad_last = native(given.grad_out), None if given.grad_last is None else dense(given.grad_last)
    A, z, grad_z = inputs.A, inputs.z, given.grad_z
    grad_u, grad_dt = with_huge_pages(like(inputs.u)), with_huge_pages(like(inputs.dt))
    if grad_z is None:
        grad_z = inputs.u.new_empty(0) if z is None else with_huge_pages(like(z))
    if given.y is not None:
        gate(given.acc, z, given.y)
    sums_A, sums_D, sums_bias = A.new_empty(K, N, E, S), A.new_empty(K, N, E), A.new_empty(K, N, E)
    grad_h0 = A.new_empty(K, N, E, S)
    sums_B, sums_C = A.new_empty(2, parts, K, N, T, G, S)
    forward = _arguments(inputs, given.acc, grad_out, None, given.starts)
    views = (by_row(grad_out), by_direction(grad_u), by_direction(grad_dt))
    addresses = map(address, (grad_last, sums_B, sums_C, sums_A, sums_D, sums_bias, grad_h0))
    gradient = scan_backward.Gradient(width, *views, NULL_VIEW if z is None else by_row(grad_z), *addresses)
    floats = scan_backward.scratch_floats(width, S)
    scan_backward.backward(K * N * G * parts, forward, gradient, floats=floats)
    over = 1 if len(A) > 1 else (0, 1)
    grad_A, grad_D, grad_bias = (t.sum(over).view(len(A), *t.shape[2:]) for t in (sums_A, sums_D, sums_bias))
    return grad_u, grad_dt, grad_A, sums_B.sum(0), sums_C.sum(0), grad_D, grad_bias, grad_z, grad_h0


def _kept(inputs: ScanInputs) -> tuple[tuple[int, ...], tuple[int, ...]]:
    K, N, T, E = inputs.u.shape
    columns, chunks = (K if inputs.keep_directions else 1), -(-T // scan_forward.CHUNK)
    acc = (N, T, columns, E) if inputs.z is not None or columns < K else ()
    return acc, (K, N, chunks, _blocks(E, inputs.B.shape[3]), inputs.A.shape[2], 16)


KERNELS = ScanKernels(run, _backward, _kept, matrix)
scan = registered_scan("numba", KERNELS)
