"""The convolution on Triton's kernels, registered as torch custom ops."""

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

ROWS, BLOCK = 16, 128  # positions and channels of a program


def _block(width: int) -> int:
    return min(BLOCK, triton.next_power_of_2(width))


def _kernel_inputs(inputs: ConvInputs) -> kernels.Inputs:
    """A state without rows, of a convolution with one tap, counts as none."""
    x, weight, bias, state, reset, history, left_pad, scan_order = inputs
    strides = (x.stride(2) if x.shape[2] > 1 else 0, x.stride(0), x.stride(1))
    state = state if state is not None and state.numel() else None
    return kernels.Inputs(x, *strides, weight, bias, state, reset, history, left_pad, scan_order)


def _constants(weight: Tensor) -> dict[str, int]:
    return {"SETS": len(weight), "TAPS": weight.shape[1], "ROWS": ROWS, "num_warps": 4}


def _run(*arguments: Any) -> Tensor:
    inputs = ConvInputs(*arguments)
    N, T, _, E = inputs.x.shape
    check_scan_order(inputs.scan_order, T)
    K, block = inputs.directions, _block(E)
    out = inputs.x.new_empty(K, N, T, E)
    if out.numel():
        kernels.forward[(triton.cdiv(E, block), triton.cdiv(T, ROWS), K * N)](
            _kernel_inputs(inputs), out, kernels.Sizes(N, T, E), BLOCK=block, **_constants(inputs.weight)
        )
    return out


_op = torch.library.custom_op("vlm_ssm::triton_conv", _run, mutates_args=(), schema=CONV_FORWARD)


@_op.register_fake
def _(*arguments: Any):
    x, directions = arguments[0], ConvInputs(*arguments).directions
    return x.new_empty(directions, x.shape[0], x.shape[1], x.shape[3])


def _backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of x, weight, bias and state; empty for an absent state."""
    inputs = ConvInputs(*arguments)
    x, weight, state = inputs.x, inputs.weight, inputs.state
    grad = native(grad).contiguous()
    (K, N, T, E), (sets, taps, _) = grad.shape, weight.shape
    grad_x = like(x)
    grad_state = x.new_empty(0) if state is None else like(state)
    sums = weight.new_empty(K, N, triton.cdiv(T, ROWS), taps + 1, E)
    if grad.numel():
        _launch_backward(inputs, grad, grad_x, grad_state, sums)
    over = (1, 2) if sets > 1 else (0, 1, 2)
    summed = sums.sum(over).view(sets, taps + 1, E)
    return grad_x, summed[:, :taps].clone(), summed[:, taps].clone(), grad_state


def _launch_backward(
    inputs: ConvInputs, grad: Tensor, grad_x: Tensor, grad_state: Tensor, sums: Tensor
) -> None:
    """Fill `grad_x`, `grad_state` and `sums` (K, N, tiles, W + 1, E)."""
    (K, N, T, E), J, scan_order = grad.shape, inputs.x.shape[2], inputs.scan_order
    tensors, sizes, block = _kernel_inputs(inputs), kernels.Sizes(N, T, E), _block(E)
    past = 0 if tensors.state is None else inputs.weight.shape[1] - 1
    inside, programs = torch.empty_like(grad, dtype=torch.float32), triton.cdiv(E, block)
    constants = {**_constants(inputs.weight), "BLOCK": block}
    kernels.backward_silu[(programs, triton.cdiv(T, ROWS), K * N)](
        tensors, grad, inside, sums, sizes, **constants
    )
    inverse = None if scan_order is None else inverse_of(scan_order)
    state = grad_state if past else None
    kernels.backward_rows[(programs, triton.cdiv(T + past, ROWS), N * J)](
        tensors, inside, inverse, grad_x, state, sizes, (K, J), PAST=past, **constants
    )


_backward_op = torch.library.custom_op(
    "vlm_ssm::triton_conv_backward", _backward, mutates_args=(), schema=CONV_BACKWARD
)


@_backward_op.register_fake
def _(grad: Tensor, *arguments: Any):
    x, weight, _, state, *_ = arguments
    grad_state = x.new_empty(0) if state is None else like(state)
    return like(x), torch.empty_like(weight), weight.new_empty(len(weight), weight.shape[2]), grad_state


conv = conv_with(_op, _run, _backward_op)
