"""The selective scan on CUDA kernels, registered with torch: autograd, checkpointing and compile see one op."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlm_ssm.cuda.launch import is_usable
from vlm_ssm.cuda.memory import KINDS, aligned, by_direction, by_row, rows
from vlm_ssm.cuda.padding import scan_padded
from vlm_ssm.cuda.reduce import sum_slices
from vlm_ssm.cuda.scan_backward import gate_backward, run_backward
from vlm_ssm.cuda.scan_forward import can_chain, run_forward, sum_directions
from vlm_ssm.cuda.scan_inputs import TILE, why_not_covered, with_alignment
from vlm_ssm.registration.autograd import BACKWARD, FORWARD, like_inputs, scan_with
from vlm_ssm.registration.inputs import ScanInputs
from vlm_ssm.registration.layouts import check_scan_order, dense, like
from vlm_ssm.triton import scan as triton_scan


def _run(inputs: ScanInputs, train: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """y, last state, and for the backward the ungated sum of directions and the states before each tile."""
    u, z = inputs.u, inputs.z
    (K, N, T, E), states = u.shape, inputs.A.shape[2]
    check_scan_order(inputs.scan_order, T)
    columns = K if inputs.keep_directions else 1
    summed = columns < K
    out, last = u.new_empty(N, T, columns, E), u.new_empty(K, N, E, states, dtype=torch.float32)
    keep = train and summed and z is not None
    acc = out.new_empty(N, T, E, dtype=torch.float32) if keep else None
    starts = last.new_empty(K, N, -(-T // TILE), E, states) if train else None
    if not out.numel():
        return out, last.zero_(), acc, starts
    ready = with_alignment(inputs)
    if summed and can_chain(ready):
        sums = acc if acc is not None else last.new_empty(N, T, E)
        run_forward(ready, by_row("out", out), last, starts, summed, sums, keep)
        return out, last, acc, starts
    parts = out.new_empty(K, N, T, E, dtype=torch.float32) if summed else None
    run_forward(
        ready, by_row("out", out) if parts is None else by_direction("out", parts), last, starts, summed
    )
    if parts is not None:
        sum_directions(parts, ready.z, acc, out)
    return out, last, acc, starts


def _forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out, last, acc, starts = _run(ScanInputs(*inputs), True)
    assert starts is not None
    return out, last, last.new_empty(0) if acc is None else acc, starts


_op = torch.library.custom_op("vlm_ssm::cuda_scan", _forward, mutates_args=(), schema=FORWARD)


@_op.register_fake
def _(*inputs: Any):
    u, _, A, _, _, _, _, z, *_, keep_directions = inputs
    (K, N, T, E), states = u.shape, A.shape[2]
    columns = K if keep_directions else 1
    out, last = u.new_empty(N, T, columns, E), A.new_empty(K, N, E, states)
    acc = last.new_empty(N, T, E) if columns < K and z is not None else last.new_empty(0)
    return out, last, acc, last.new_empty(K, N, -(-T // TILE), E, states)


def _backward(grad_out: Tensor, grad_last: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of u, dt, A, B, C, D, bias, z, h0; that of an absent z is empty."""
    *given, acc, starts = arguments
    inputs = with_alignment(ScanInputs(*given))
    u, A, B, C, z = inputs.u, inputs.A, inputs.B, inputs.C, inputs.z
    (K, N, _, E), (P, _, states) = u.shape, A.shape
    summed = grad_out.shape[2] < K
    grad_out, grad_last = aligned(rows(grad_out.to(u.dtype))), None if grad_last is None else dense(grad_last)
    grad_u, grad_dt, grad_z = like(u), like(inputs.dt), u.new_empty(0) if z is None else like(z)
    grad_B, grad_C, grad_h0 = like(B), like(C), A.new_empty(K, N, E, states)
    grad_A, grad_D, grad_bias = like(A), A.new_empty(P, E), A.new_empty(P, E)
    results = (grad_u, grad_dt, grad_z, grad_h0)
    if grad_u.numel():
        for piece, parts, matrices, sums in run_backward(
            inputs, grad_out, grad_last, starts, results, summed
        ):
            totals = (grad_A, grad_D, grad_bias)
            sum_slices(sums, K * N * parts, totals, matrices, grad_B, grad_C, piece)
        if summed and z is not None:
            gate_backward(acc, z, grad_out, grad_z)
    else:
        for empty in (grad_A, grad_D, grad_bias, grad_h0):
            empty.zero_()
    return grad_u, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_bias, grad_z, grad_h0


_backward_op = torch.library.custom_op(
    "vlm_ssm::cuda_scan_backward", _backward, mutates_args=(), schema=BACKWARD
)
_backward_op.register_fake(like_inputs)


def _matrix(m: Tensor) -> Tensor:
    """B or C as they are if kernels read them."""
    return m if m.dtype in KINDS else m.float()


_scan = scan_with(_op, _run, _backward_op, _matrix, rows)


def scan(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """As `ops.scan`; cases that the kernels don't cover go to Triton's."""
    tensors = (t for t in inputs if isinstance(t, Tensor))
    train = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if why_not_covered(inputs, train) or not is_usable(inputs.u.device):
        return triton_scan.scan(inputs)
    return scan_padded(inputs, _scan)
