"""The convolution on Triton's kernels, registered with torch as `triton.scan` does."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from vlm_ssm.registration.conv_op import ConvKernels, registered_conv
from vlm_ssm.registration.inputs import ConvInputs, directions_of
from vlm_ssm.registration.layouts import check_scan_order, like, native
from vlm_ssm.registration.scan_orders import inverse_of
from vlm_ssm.triton.kernels import conv as kernels

ROWS, BLOCK = 16, 128  # positions and channels a program


def _block(width: int) -> int:
    return min(BLOCK, triton.next_power_of_2(width))


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Of (B, T, J, E) over directions, sequences, rows."""
    return x.stride(2) if x.shape[2] > 1 else 0, x.stride(0), x.stride(1)


def _run(inputs: ConvInputs) -> Tensor:
    x, weight, bias, state, reset, history, left_pad, scan_order = inputs
    N, T, _, E = x.shape
    check_scan_order(scan_order, T)
    K, block = directions_of(inputs), _block(E)
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


def _backward(
    grad: Tensor, inputs: ConvInputs, grad_x: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `ConvKernels.backward`."""
    x, weight, bias, state, reset, history, left_pad, scan_order = inputs
    grad = native(grad).contiguous()
    (K, N, T, E), J, sets, taps = grad.shape, x.shape[2], len(weight), weight.shape[1]
    block, tiles = _block(E), triton.cdiv(T, ROWS)
    inside, own_grad_x = torch.empty_like(grad, dtype=torch.float32), like(x)
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
            inside, weight, history, left_pad, inverse, own_grad_x, grad_state if past else None, N, T, E, K, J,
            PAST=past, **shared,
        )  # fmt: skip
    over = (1, 2) if sets > 1 else (0, 1, 2)
    summed = sums.sum(over).view(sets, taps + 1, E)
    grad_x = own_grad_x if grad_x is None else grad_x.copy_(own_grad_x)
    return grad_x, summed[:, :taps].clone(), summed[:, taps].clone(), grad_state


KERNELS = ConvKernels(_run, _backward)
conv = registered_conv("triton", KERNELS)
