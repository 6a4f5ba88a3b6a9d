"""The convolution on numba's CPU kernels, registered with torch as `fast_scan` does."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_ssm.autograd import conv_with
from vlm_ssm.layouts import check_routes, native
from vlm_ssm.numba.address import address, by_direction, by_row, rows
from vlm_ssm.numba.kernels import conv as kernels
from vlm_ssm.numba.kernels.scan_forward import NOWHERE


def _arguments(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, flags: Tensor | None,
    since: Tensor | None, front: Tensor | None, routes: Tensor | None, out: Tensor,
) -> kernels.Conv:  # fmt: skip
    K, N, T, E = out.shape
    at_state = NOWHERE if state is None else rows(state.unsqueeze(0), 0, 1, 2)
    return kernels.Conv(
        K, N, T, E, weight.shape[1], len(weight), by_row(x), by_direction(out), at_state, address(weight),
        address(bias), address(flags), address(since), address(front), address(routes),
    )  # fmt: skip


def _directions(x: Tensor, routes: Tensor | None) -> int:
    return x.shape[2] if routes is None else len(routes)


def _run(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, flags: Tensor | None,
    since: Tensor | None, front: Tensor | None, routes: Tensor | None,
) -> Tensor:  # fmt: skip
    N, T, _, E = x.shape
    check_routes(routes, T)
    out = x.new_empty(_directions(x, routes), N, T, E)
    arguments = _arguments(x, weight, bias, state, flags, since, front, routes, out)
    tasks = out.shape[0] * N * -(-T // kernels.ROWS)
    kernels.forward(tasks, arguments, floats=2 * weight.shape[1])
    return out


_op = torch.library.custom_op("vlm_ssm::numba_conv", _run, mutates_args=())


@_op.register_fake
def _(x, weight, bias, state, flags, since, front, routes):
    return x.new_empty(_directions(x, routes), x.shape[0], x.shape[1], x.shape[3])


@torch.library.custom_op("vlm_ssm::numba_conv_backward", mutates_args=())
def _backward_op(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None,
    flags: Tensor | None, since: Tensor | None, front: Tensor | None, routes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, weight, bias, state; that of an absent state is empty."""
    grad = native(grad)
    K, N, T, E = grad.shape
    tasks, taps = K * N * -(-T // kernels.ROWS), weight.shape[1]
    inside = torch.empty_like(grad, memory_format=torch.contiguous_format)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    grad_state = x.new_empty(0) if state is None else torch.empty_like(state)
    sums = weight.new_empty(tasks, taps + 1, E)
    inverse = None if routes is None else routes.argsort(-1)
    at_state = NOWHERE if state is None else rows(grad_state.unsqueeze(0), 0, 1, 2)
    forward = _arguments(x, weight, bias, state, flags, since, front, routes, grad)
    gradient = kernels.Gradient(
        by_direction(grad), by_direction(inside), by_row(grad_x), at_state, address(sums), address(inverse)
    )  # fmt: skip
    kernels.backward_inside(tasks, forward, gradient, floats=kernels.working_floats(taps))
    all_rows = N * (T + (0 if state is None else taps - 1))
    kernels.backward_rows(-(-all_rows // kernels.FEW), forward, gradient)
    by_parameters = sums.unflatten(0, (len(weight), -1)).sum(1)  # tasks come direction by direction
    return grad_x, by_parameters[:, :taps].clone(), by_parameters[:, taps].clone(), grad_state


@_backward_op.register_fake
def _(grad, x, weight, bias, state, flags, since, front, routes):
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    grad_state = x.new_empty(0) if state is None else torch.empty_like(state)
    return grad_x, torch.empty_like(weight), weight.new_empty(len(weight), weight.shape[2]), grad_state


conv = conv_with(_op, _run, _backward_op)
