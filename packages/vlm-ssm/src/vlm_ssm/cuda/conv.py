"""The convolution on CUDA kernels."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from vlm_ssm.cuda.launch import PLANS, Launch, is_usable, kernel
from vlm_ssm.cuda.memory import GRID, KINDS, Layout, aligned, by_direction, by_row, layout, rows
from vlm_ssm.cuda.reduce import sum_slices
from vlm_ssm.cuda.scan_forward import sum_directions
from vlm_ssm.registration.conv_op import ConvKernels, registered_conv
from vlm_ssm.registration.inputs import ConvInputs, directions_of
from vlm_ssm.registration.layouts import check_scan_order, like
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


def why_not_covered(inputs: ConvInputs) -> str | None:
    """Why a convolution goes to Triton's kernels; None if it doesn't."""
    x, taps = inputs.x, inputs.weight.shape[1]
    sequences = x.shape[0] * directions_of(inputs)
    if sequences > GRID or x.shape[1] > STRIPS["forward"][0] * GRID:
        return f"{sequences} sequences of {x.shape[1]} positions, more than a grid has"
    if x.shape[-1] % 8:
        return f"{x.shape[-1]} channels, no multiple of 8"
    return None if 2 <= taps <= 4 else f"windows of {taps} positions"


_TENSORS = (
    "x", "weight", "bias", "state", "reset", "history", "left_pad", "order", "y", "grad", "grad_x", "grad_state",
    "sums",
)  # fmt: skip


class ConvLayout(NamedTuple):
    """What the launches of a convolution depend on; `sets`: of parameters."""

    x: Layout
    directions: int
    taps: int
    sets: int
    boundaries: bool
    ordered: bool
    state: bool
    device: int


def _layout(inputs: ConvInputs) -> ConvLayout:
    sets, taps, _ = inputs.weight.shape
    flags = inputs.reset is not None, inputs.scan_order is not None, inputs.state is not None
    return ConvLayout(layout(inputs.x), directions_of(inputs), taps, sets, *flags, inputs.x.get_device())


@lru_cache(PLANS)
def _launch(which: str, given: ConvLayout, strip_: int, grad_x: Layout | None, apart: bool = False) -> Launch:
    """`which`: forward, after, or backward, whose gradient of x lies as `grad_x`, (K, N, T, E) if they are `apart`."""
    (N, T, _, E), kind = given.x.shape, KINDS[given.x.dtype]
    run = kernel(
        "conv.cu",
        f"conv_{which}",
        ROW=kind,
        OUT=kind if grad_x is None else KINDS[grad_x.dtype],
        TAPS=given.taps,
        CHANNELS=CHANNELS,
        STRIP=strip_,
        AHEAD=AHEAD.get(which, 1),
        BOUNDARIES=given.boundaries,
        ORDERED=given.ordered,
        STATE=given.state,
    )
    view = by_direction if apart else by_row
    integers = by_row("x", given.x) | view("grad_x", grad_x) | {"N": N, "T": T, "E": E, "sets": given.sets}
    strips = 1 if which == "after" else -(-T // strip_)
    grid = (-(-E // (CHANNELS * THREADS)), strips, given.directions * N)
    return run.prepare(grid, THREADS, 0, given.device, _TENSORS, **integers)


def _with_alignment(inputs: ConvInputs) -> ConvInputs:
    x = aligned(inputs.x)
    return inputs if x is inputs.x else inputs._replace(x=x)


def _run(inputs: ConvInputs) -> Tensor:
    inputs = _with_alignment(inputs)
    N, T, _, E = inputs.x.shape
    check_scan_order(inputs.scan_order, T)
    K = directions_of(inputs)
    y = inputs.x.new_empty(K, N, T, E)
    if y.numel():
        strip_ = strip("forward", K * N, T, E)
        _launch("forward", _layout(inputs), strip_, None)(*inputs, y, None, None, None, None)
    return y


def _after(inputs: ConvInputs) -> Tensor:
    """As `torch.ops.after`, in one launch."""
    inputs = _with_alignment(inputs)
    y = inputs.x.new_empty(len(inputs.x), inputs.weight.shape[1] - 1, inputs.x.shape[3])
    if y.numel():
        _launch("after", _layout(inputs), 1, None)(*inputs, y, None, None, None, None)
    return y


def _backward(
    grad: Tensor, inputs: ConvInputs, grad_x: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `ConvKernels.backward`."""
    inputs = _with_alignment(inputs)
    x, weight, state = inputs.x, inputs.weight, inputs.state
    grad = aligned(rows(grad.to(x.dtype)).contiguous())
    (K, N, T, E), J, (sets, taps, _) = grad.shape, x.shape[2], weight.shape
    strip_ = strip("backward", K * N, T, E)
    apart = J < K
    grad_x = like(x) if grad_x is None or apart else grad_x
    sums = weight.new_empty(K, N, -(-T // strip_), taps + 1, E)
    grad_weight, grad_bias = torch.empty_like(weight), weight.new_empty(sets, E)
    grad_state = None if state is None else weight.new_empty(K, N, taps - 1, E)
    parts = weight.new_empty(K, N, T, E) if apart else None
    if grad.numel():
        to = grad_x if parts is None else parts
        launch = _launch("backward", _layout(inputs), strip_, layout(to), apart)
        launch(*inputs, None, grad, to, grad_state, sums)
        sum_slices(sums, sums.shape[:3].numel(), (grad_weight, grad_bias))
        if parts is not None:
            sum_directions(parts, None, None, grad_x)
    else:
        grad_weight.zero_()
        grad_bias.zero_()
    given = x.new_empty(0) if state is None or grad_state is None else grad_state.sum(0).to(state.dtype)
    return grad_x, grad_weight, grad_bias, given


KERNELS = ConvKernels(_run, _backward, rows, _after)
_conv = registered_conv("cuda", KERNELS)


def conv(inputs: ConvInputs) -> Tensor:
    """As `ops.conv`; cases that the kernels don't cover go to Triton's."""
    return _conv(inputs) if _covers(inputs) else triton_conv.conv(inputs)


def _covers(inputs: ConvInputs) -> bool:
    return why_not_covered(inputs) is None and is_usable(inputs.x.device)


def conv_kernels(inputs: ConvInputs) -> ConvKernels:
    """The kernels that compute a convolution of these inputs."""
    return KERNELS if _covers(inputs) else triton_conv.KERNELS
