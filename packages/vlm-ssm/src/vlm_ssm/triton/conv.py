"""The convolution on Triton's kernels, registered with torch as `triton.scan` does."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from vlm_ssm.registration.autograd import CONV_BACKWARD, CONV_FORWARD, conv_with
from vlm_ssm.registration.inputs import ConvInputs
from vlm_ssm.registration.layouts import check_scan_order, like, native
from vlm_ssm.registration.scan_orders import inverse_of
from vlm_ssm.triton.kernels import conv as kernels

ROWS, BLOCK = 16, 128  # positions and channels a program


def _block(width: int) -> int:
    return min(BLOCK, triton.next_power_of_2(width))


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Of (B, T, J, E) over directions, sequences, rows."""
    return x.stride(2) if x.shape[2] > 1 else 0, x.stride(0), x.stride(1)


def _run(*arguments: Any) -> Tensor:
    inputs = ConvInputs(*arguments)
    x, weight, bias, state, reset, history, left_pad, scan_order = inputs
    N, T, _, E = x.shape
    check_scan_order(scan_order, T)
    K, block = inputs.directions, _block(E)
    out = x.new_empty(K, N, T, E)
    if out.numel():
        kernels.forward[(triton.cdiv(E, block), triton.cdiv(T, ROWS), K * N)](
            x, weight, bias, _given(state), reset, history, left_pad, scan_order, out, *_strides(x), N, T, E,
            SETS=len(weight), TAPS=weight.shape[1], ROWS=ROWS, BLOCK=block, num_warps=4,
        )  # fmt: skip
    return out


def _given(state: Tensor | None) -> Tensor | None:
    """None also where a window of one tap leaves no state."""
    return state if state is not None and state.numel() else None


_op = torch.library.custom_op("vlm_ssm::triton_conv", _run, mutates_args=(), schema=CONV_FORWARD)


@_op.register_fake
def _(*arguments: Any):
    x, directions = arguments[0], ConvInputs(*arguments).directions
    return x.new_empty(directions, x.shape[0], x.shape[1], x.shape[3])


def _backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of x, weight, bias, state; that of an absent state is empty."""
    inputs = ConvInputs(*arguments)
    x, weight, bias, state, reset, history, left_pad, scan_order = inputs
    grad = native(grad).contiguous()
    (K, N, T, E), J, sets, taps = grad.shape, x.shape[2], len(weight), weight.shape[1]
    block, tiles = _block(E), triton.cdiv(T, ROWS)
    inside, grad_x = torch.empty_like(grad, dtype=torch.float32), like(x)
    grad_state = x.new_empty(0) if state is None else like(state)
    sums = weight.new_empty(K, N, tiles, taps + 1, E)
    held, past = _given(state), 0 if _given(state) is None else taps - 1
    shared = {"SETS": sets, "TAPS": taps, "ROWS": ROWS, "BLOCK": block, "num_warps": 4}
    if grad.numel():
        kernels.backward_silu[(triton.cdiv(E, block), tiles, K * N)](
            x, weight, bias, held, reset, history, left_pad, scan_order, grad, inside, sums, *_strides(x), N, T, E,
            **shared,
        )  # fmt: skip
        inverse = None if scan_order is None else inverse_of(scan_order)
        kernels.backward_rows[(triton.cdiv(E, block), triton.cdiv(T + past, ROWS), N * J)](
            inside, weight, history, left_pad, inverse, grad_x, grad_state if past else None, N, T, E, K, J,
            PAST=past, **shared,
        )  # fmt: skip
    over = (1, 2) if sets > 1 else (0, 1, 2)
    summed = sums.sum(over).view(sets, taps + 1, E)
    return grad_x, summed[:, :taps].clone(), summed[:, taps].clone(), grad_state


_backward_op = torch.library.custom_op(
    "vlm_ssm::triton_conv_backward", _backward, mutates_args=(), schema=CONV_BACKWARD
)


@_backward_op.register_fake
def _(grad: Tensor, *arguments: Any):
    x, weight, _, state, *_ = arguments
    grad_state = x.new_empty(0) if state is None else like(state)
    return like(x), torch.empty_like(weight), weight.new_empty(len(weight), weight.shape[2]), grad_state


conv = conv_with(_op, _run, _backward_op)
