"""The convolution on numba's CPU kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_ssm.numba.address import address, by_direction, by_row, rows
from vlm_ssm.numba.kernels import conv as kernels
from vlm_ssm.numba.kernels.scan_forward import NULL_VIEW
from vlm_ssm.registration.conv_op import ConvKernels, registered_conv
from vlm_ssm.registration.inputs import ConvInputs, directions_of
from vlm_ssm.registration.layouts import check_scan_order, like, native
from vlm_ssm.registration.scan_orders import inverse_of
from vlm_ssm.runtime.huge_pages import with_huge_pages


def _arguments(inputs: ConvInputs, out: Tensor) -> kernels.Conv:
    x, weight, bias, state, reset, history, left_pad, scan_order = inputs
    K, N, T, E = out.shape
    at_state = NULL_VIEW if state is None else rows(state.unsqueeze(0), 0, 1, 2)
    addresses = map(address, (weight, bias, reset, history, left_pad, scan_order))
    return kernels.Conv(
        K, N, T, E, weight.shape[1], len(weight), by_row(x), by_direction(out), at_state, *addresses
    )


def run(inputs: ConvInputs, out: Tensor | None = None) -> Tensor:
    """As `ConvKernels.forward`; y is written to `out` (K, B, T, E) if given."""
    N, T, _, E = inputs.x.shape
    check_scan_order(inputs.scan_order, T)
    if out is None:
        out = with_huge_pages(inputs.x.new_empty(directions_of(inputs), N, T, E))
    tasks = out.shape[0] * N * -(-T // kernels.ROWS)
    kernels.forward(tasks, _arguments(inputs, out), floats=2 * inputs.weight.shape[1])
    return out


def _backward(
    grad: Tensor, inputs: ConvInputs, grad_x: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `ConvKernels.backward`."""
    x, weight, state, scan_order = inputs.x, inputs.weight, inputs.state, inputs.scan_order
    grad = native(grad)
    K, N, T, E = grad.shape
    tasks, taps = K * N * -(-T // kernels.ROWS), weight.shape[1]
    inside = with_huge_pages(like(grad))
    grad_x = with_huge_pages(like(x)) if grad_x is None else grad_x
    grad_state = x.new_empty(0) if state is None else torch.empty_like(state)
    sums = weight.new_empty(tasks, taps + 1, E)
    inverse = None if scan_order is None else inverse_of(scan_order)
    at_state = NULL_VIEW if state is None else rows(grad_state.unsqueeze(0), 0, 1, 2)
    forward = _arguments(inputs, grad)
    gradient = kernels.Gradient(
        by_direction(grad), by_direction(inside), by_row(grad_x), at_state, address(sums), address(inverse)
    )
    kernels.backward_inside(tasks, forward, gradient, floats=kernels.scratch_floats(taps))
    all_rows = N * (T + (0 if state is None else taps - 1))
    kernels.backward_rows(-(-all_rows // kernels.GATHER_ROWS), forward, gradient)
    by_parameters = sums.unflatten(0, (len(weight), -1)).sum(1)  # tasks are ordered by direction
    return grad_x, by_parameters[:, :taps].clone(), by_parameters[:, taps].clone(), grad_state


KERNELS = ConvKernels(run, _backward)
conv = registered_conv("numba", KERNELS)
