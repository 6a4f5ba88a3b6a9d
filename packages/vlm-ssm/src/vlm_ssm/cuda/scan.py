"""The selective scan on CUDA kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_ssm.cuda.launch import is_usable
from vlm_ssm.cuda.memory import KINDS, aligned, rows
from vlm_ssm.cuda.reduce import sum_slices
from vlm_ssm.cuda.scan_backward import gate_backward, run_backward
from vlm_ssm.cuda.scan_forward import can_chain, run_forward, sum_directions
from vlm_ssm.cuda.scan_inputs import TILE, why_not_covered, with_alignment
from vlm_ssm.cuda.shapes.padding import needs_padding, scan_padded
from vlm_ssm.registration.inputs import ScanGradients, ScanInputs
from vlm_ssm.registration.layouts import check_scan_order, dense, like
from vlm_ssm.registration.scan_op import ScanKernels, registered_scan
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
        run_forward(ready, out, last, starts, summed, sums, keep)
        return out, last, acc, starts
    parts = out.new_empty(K, N, T, E, dtype=torch.float32) if summed else None
    run_forward(ready, out if parts is None else parts, last, starts, summed)
    if parts is not None:
        sum_directions(parts, ready.z, acc, out)
    return out, last, acc, starts


def _kept(inputs: ScanInputs) -> tuple[tuple[int, ...], tuple[int, ...]]:
    K, N, T, E = inputs.u.shape
    summed = not inputs.keep_directions and K > 1
    return (N, T, E) if summed and inputs.z is not None else (), (K, N, -(-T // TILE), E, inputs.A.shape[2])


def _backward(inputs: ScanInputs, given: ScanGradients) -> tuple[Tensor, ...]:
    """As `ScanKernels.backward`; `given.y` only of a gated scan whose directions are not summed."""
    inputs = with_alignment(inputs)
    u, A, B, C, z = inputs.u, inputs.A, inputs.B, inputs.C, inputs.z
    (K, N, _, E), (P, _, states) = u.shape, A.shape
    summed = given.grad_out.shape[2] < K
    grad_out, grad_last = aligned(rows(given.grad_out.to(u.dtype))), given.grad_last
    given = given._replace(grad_out=grad_out, grad_last=None if grad_last is None else dense(grad_last))
    grad_u, grad_dt, grad_z = like(u), like(inputs.dt), given.grad_z
    if grad_z is None:
        grad_z = u.new_empty(0) if z is None else like(z)
    grad_B, grad_C, grad_h0 = like(B), like(C), A.new_empty(K, N, E, states)
    grad_A, grad_D, grad_bias = like(A), A.new_empty(P, E), A.new_empty(P, E)
    results = (grad_u, grad_dt, grad_z, grad_h0)
    if grad_u.numel():
        totals = (grad_A, grad_D, grad_bias)
        for piece, parts, matrices, sums in run_backward(inputs, given, results, summed):
            sum_slices(sums, K * N * parts, totals, matrices, grad_B, grad_C, piece)
        if summed and z is not None:
            assert given.acc is not None
            gate_backward(given.acc, z, grad_out, grad_z)
    else:
        for empty in (grad_A, grad_D, grad_bias, grad_h0):
            empty.zero_()
    return grad_u, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_bias, grad_z, grad_h0


def _matrix(m: Tensor) -> Tensor:
    """B or C as they are if kernels read them."""
    return m if m.dtype in KINDS else m.float()


KERNELS = ScanKernels(_run, _backward, _kept, _matrix, rows)
_scan = registered_scan("cuda", KERNELS)


def scan(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """As `ops.scan`; cases that the kernels don't cover go to Triton's."""
    tensors = (t for t in inputs if isinstance(t, Tensor))
    train = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return scan_padded(inputs, _scan) if _covers(inputs, train) else triton_scan.scan(inputs)


def _covers(inputs: ScanInputs, train: bool) -> bool:
    return why_not_covered(inputs, train) is None and is_usable(inputs.u.device)


def scan_kernels(inputs: ScanInputs, train: bool) -> ScanKernels:
    """The kernels that compute a scan of these inputs as they are, without padding."""
    covered = _covers(inputs, train) and not needs_padding(inputs)
    return KERNELS if covered else triton_scan.KERNELS
