"""The convolution on CUDA kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlm_ssm.cuda.launch import is_usable, kernel
from vlm_ssm.cuda.memory import GRID, KINDS, aligned, by_row, rows
from vlm_ssm.cuda.reduce import sum_slices
from vlm_ssm.registration.conv_op import ConvKernels, registered_conv
from vlm_ssm.registration.inputs import ConvInputs
from vlm_ssm.registration.layouts import check_scan_order, like
from vlm_ssm.segments import SegmentBoundaries
from vlm_ssm.triton import conv as triton_conv

CHANNELS, THREADS = 4, 128  # channels of a thread, threads of a block
AHEAD = {"forward": 4, "backward": 2}  # rows that a thread loads at once
STRIPS = {"forward": (8, 16), "backward": (32, 128)}  # positions of a thread: at least, at most
BUSY = 132 * 1024
"""Threads that fill a large GPU: strips are as long as leaves it busy."""


def strip(kind: str, sequences: int, length: int, width: int) -> int:
    """By shapes alone, so that sums have one order; a power of two."""
    least, most = STRIPS[kind]
    wanted = sequences * length * width // CHANNELS // BUSY
    return min(most, max(least, 1 << max(0, wanted.bit_length() - 1)))


def why_not_covered(x: Tensor, weight: Tensor, scan_order: Tensor | None) -> str | None:
    """Why a convolution goes to Triton's kernels; None if it doesn't."""
    sequences = x.shape[0] * (x.shape[2] if scan_order is None else len(scan_order))
    if sequences > GRID or x.shape[1] > STRIPS["forward"][0] * GRID:
        return f"{sequences} sequences of {x.shape[1]} positions, more than a grid has"
    if x.shape[-1] % 8:
        return f"{x.shape[-1]} channels, no multiple of 8"
    return None if 2 <= weight.shape[-1] <= 4 else f"windows of {weight.shape[-1]} positions"


def _options(inputs: ConvInputs, which: str, strip_: int) -> dict[str, int]:
    kind = KINDS[inputs.x.dtype]
    return {
        "ROW": kind,
        "OUT": kind,
        "TAPS": inputs.weight.shape[1],
        "CHANNELS": CHANNELS,
        "STRIP": strip_,
        "AHEAD": AHEAD[which],
        "BOUNDARIES": inputs.reset is not None,
        "ORDERED": inputs.scan_order is not None,
        "STATE": inputs.state is not None,
    }


def _values(inputs: ConvInputs, **values: Any) -> dict[str, Any]:
    x, weight, bias, state, reset, history, left_pad, scan_order = inputs
    absent = dict.fromkeys(("y", "grad", "grad_x", "grad_x_k", "grad_x_n", "grad_x_t", "grad_state", "sums"))
    marks = {"reset": reset, "history": history, "left_pad": left_pad, "order": scan_order}
    sizes = {"N": len(x), "T": x.shape[1], "E": x.shape[3], "sets": len(weight)}
    return absent | by_row("x", x) | {"weight": weight, "bias": bias, "state": state} | marks | sizes | values


def _grid(inputs: ConvInputs, strip_: int) -> tuple[int, int, int]:
    N, T, _, E = inputs.x.shape
    return -(-E // (CHANNELS * THREADS)), -(-T // strip_), inputs.directions * N


def _run(inputs: ConvInputs) -> Tensor:
    inputs = inputs._replace(x=aligned(inputs.x))
    N, T, _, E = inputs.x.shape
    check_scan_order(inputs.scan_order, T)
    K = inputs.directions
    y = inputs.x.new_empty(K, N, T, E)
    if y.numel():
        strip_ = strip("forward", K * N, T, E)
        run = kernel("conv.cu", "conv_forward", **_options(inputs, "forward", strip_))
        run(_grid(inputs, strip_), THREADS, 0, y.device.index, **_values(inputs, y=y))
    return y


def _backward(
    grad: Tensor, inputs: ConvInputs, grad_x: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `ConvKernels.backward`."""
    inputs = inputs._replace(x=aligned(inputs.x))
    x, weight, state = inputs.x, inputs.weight, inputs.state
    grad = aligned(rows(grad.to(x.dtype)).contiguous())
    (K, N, T, E), J, (sets, taps, _) = grad.shape, x.shape[2], weight.shape
    strip_ = strip("backward", K * N, T, E)
    apart = J < K
    grad_x = like(x) if grad_x is None or apart else grad_x
    sums = weight.new_empty(K, N, -(-T // strip_), taps + 1, E)
    grad_weight, grad_bias = torch.empty_like(weight), weight.new_empty(sets, E)
    grad_state = None if state is None else weight.new_empty(K, N, taps - 1, E)
    parts = weight.new_empty(N, T, K, E) if apart else grad_x
    if grad.numel():
        options = _options(inputs, "backward", strip_) | {"OUT": 0 if apart else KINDS[x.dtype]}
        values = _values(inputs, grad=grad, grad_state=grad_state, sums=sums) | by_row("grad_x", parts)
        run = kernel("conv.cu", "conv_backward", **options)
        run(_grid(inputs, strip_), THREADS, 0, x.device.index, **values)
        sum_slices(sums, sums.shape[:3].numel(), (grad_weight, grad_bias))
    else:
        grad_weight.zero_()
        grad_bias.zero_()
    if apart:
        grad_x = parts.sum(2, keepdim=True).to(x.dtype)
    given = x.new_empty(0) if state is None or grad_state is None else grad_state.sum(0).to(state.dtype)
    return grad_x, grad_weight, grad_bias, given


KERNELS = ConvKernels(_run, _backward, rows)
_conv = registered_conv("cuda", KERNELS)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    boundaries: SegmentBoundaries | None,
    scan_order: Tensor | None,
) -> Tensor:
    """As `ops.conv`; cases that the kernels don't cover go to Triton's."""
    chosen = _conv if _covers(x, weight, scan_order) else triton_conv.conv
    return chosen(x, weight, bias, state, boundaries, scan_order)


def _covers(x: Tensor, weight: Tensor, scan_order: Tensor | None) -> bool:
    return why_not_covered(x, weight, scan_order) is None and is_usable(x.device)


def conv_kernels(x: Tensor, weight: Tensor) -> ConvKernels:
    """The kernels that compute a convolution of these, x (B, T, J, E), weight (P, E, W)."""
    return KERNELS if _covers(x, weight, None) else triton_conv.KERNELS
