"""The causal depthwise convolution and its SiLU with state, segments and scan orders, forward and backward.

The backward has two kernels, so that no two programs write to the same row. The first computes the gradient of the sum
before the SiLU, and those of weight and bias. The second gathers it along every scan order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

from vlm_ssm.triton.kernels.maths import jit, sigmoid, silu_slope

PADDED = tl.constexpr(2)


class Inputs(NamedTuple):
    """x and its strides over directions, sequences and rows; weight (P, W, E), bias (P, E), state (N, W - 1, E).

    reset, history (N, T), left_pad (N) as in `SegmentBoundaries`; scan_order (K, T). All but x and weight may be None.
    """

    x: Any
    x_k: Any
    x_n: Any
    x_t: Any
    weight: Any
    bias: Any
    state: Any
    reset: Any
    history: Any
    left_pad: Any
    scan_order: Any


class Sizes(NamedTuple):
    """Sequences, positions, channels."""

    N: Any
    T: Any
    E: Any


class Tile(NamedTuple):
    """One program's share: direction, sequence, parameter set, positions (R), channels."""

    k: Any
    n: Any
    p: Any
    t: Any
    e: Any


@jit
def window(inputs, tile, sizes, j, TAPS: tl.constexpr):
    """The inputs j positions before each position of the tile, (R, E); 0 outside the segment.

    Inputs before the first live position come from the state.
    """
    inside = tile.t < sizes.T
    if inputs.reset is not None:
        reset = inputs.reset + tile.n * sizes.T + tile.t
        history = inputs.history + tile.n * sizes.T + tile.t
        inside = inside & (tl.load(reset, mask=tile.t < sizes.T, other=2) != PADDED)
        inside = inside & (tl.load(history, mask=tile.t < sizes.T, other=0).to(tl.int32) >= j)
    source = tile.t - j
    begin = source * 0
    if inputs.left_pad is not None:
        begin += tl.load(inputs.left_pad + tile.n)
    in_x = inside & (source >= begin)
    row = source
    if inputs.scan_order is not None:
        row = tl.load(inputs.scan_order + tile.k * sizes.T + source, mask=in_x, other=0)
    at_x = inputs.x + tile.k * inputs.x_k + tile.n * inputs.x_n + row[:, None] * inputs.x_t + tile.e[None, :]
    channels = (tile.e < sizes.E)[None, :]
    value = tl.load(at_x, mask=in_x[:, None] & channels, other=0.0).to(tl.float32)
    if inputs.state is not None:
        state_row = source - begin + (TAPS - 1)
        in_state = inside & (source < begin) & (state_row >= 0)
        past = inputs.state + (tile.n * (TAPS - 1) + state_row[:, None]) * sizes.E + tile.e[None, :]
        value += tl.load(past, mask=in_state[:, None] & channels, other=0.0).to(tl.float32)
    return value


@jit
def before_silu(inputs, tile, sizes, TAPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """bias + Σ_j weight_j · x_{t-j}."""
    E = sizes.E
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    if inputs.bias is not None:
        total += tl.load(inputs.bias + tile.p * E + tile.e, mask=tile.e < E, other=0.0)[None, :]
    for j in tl.static_range(TAPS):
        at = (tile.p * TAPS + TAPS - 1 - j) * E + tile.e
        w = tl.load(inputs.weight + at, mask=tile.e < E, other=0.0)
        total += w[None, :] * window(inputs, tile, sizes, j, TAPS)
    return total


@jit
def program_tile(sizes, SETS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The `Tile` of this program."""
    q = tl.program_id(2).to(tl.int64)
    k = q // sizes.N
    p = k if SETS > 1 else k * 0
    t = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return Tile(k, q % sizes.N, p, t, tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))


@jit
def forward(
    inputs, out, sizes, SETS: tl.constexpr, TAPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """-> out (K, N, T, E)."""
    tile = program_tile(sizes, SETS, ROWS, BLOCK)
    T, E = sizes.T, sizes.E
    y = before_silu(inputs, tile, sizes, TAPS, ROWS, BLOCK)
    y = y * sigmoid(y)
    mask = (tile.t < T)[:, None] & (tile.e < E)[None, :]
    if inputs.reset is not None:
        live = tl.load(inputs.reset + tile.n * T + tile.t, mask=tile.t < T, other=2) != PADDED
        y = tl.where(live[:, None], y, 0.0)
    to = out + ((tile.k * sizes.N + tile.n) * T + tile.t[:, None]) * E + tile.e[None, :]
    tl.store(to, y.to(out.dtype.element_ty), mask=mask)


@jit
def backward_silu(
    inputs,
    grad,
    inside,
    sums,
    sizes,
    SETS: tl.constexpr,
    TAPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """grad (K, N, T, E) -> `inside`, the gradient before the SiLU; sums (K, N, tiles, W + 1, E): of weight, of bias."""
    tile = program_tile(sizes, SETS, ROWS, BLOCK)
    T, E = sizes.T, sizes.E
    sequence = tile.k * sizes.N + tile.n
    y = before_silu(inputs, tile, sizes, TAPS, ROWS, BLOCK)
    valid = (tile.t < T)[:, None] & (tile.e < E)[None, :]
    mask = valid
    if inputs.reset is not None:
        live = tl.load(inputs.reset + tile.n * T + tile.t, mask=tile.t < T, other=2) != PADDED
        mask = mask & live[:, None]
    at = (sequence * T + tile.t[:, None]) * E + tile.e[None, :]
    g = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32) * silu_slope(y)
    g = tl.where(mask, g, 0.0)
    tl.store(inside + at, g.to(inside.dtype.element_ty), mask=valid)
    to = sums + ((sequence * tl.num_programs(1) + tl.program_id(1)) * (TAPS + 1)) * E + tile.e
    tl.store(to + TAPS * E, tl.sum(g, axis=0), mask=tile.e < E)
    for j in tl.static_range(TAPS):
        value = window(inputs, tile, sizes, j, TAPS)
        tl.store(to + (TAPS - 1 - j) * E, tl.sum(g * value, axis=0), mask=tile.e < E)


@jit
def gather(total, inside, inputs, inverse, tile, begin, sizes, TAPS: tl.constexpr):
    """Add the gradients of input rows `tile.t` from the windows of one direction; rows before 0 are the state's."""
    row, T, E = tile.t, sizes.T, sizes.E
    at = row
    if inverse is not None:
        at = tl.load(inverse + tile.k * T + row, mask=(row >= 0) & (row < T), other=0)
    at = tl.where(row < 0, begin + row, at)
    real = (row < T) & ((row < 0) | (at >= begin))
    for j in tl.static_range(TAPS):
        t = at + j
        ok = real & (t >= begin) & (t < T)
        if inputs.history is not None:
            ok = ok & (tl.load(inputs.history + tile.n * T + t, mask=ok, other=0).to(tl.int32) >= j)
        at_w = (tile.p * TAPS + TAPS - 1 - j) * E + tile.e
        w = tl.load(inputs.weight + at_w, mask=tile.e < E, other=0.0)
        at_g = ((tile.k * sizes.N + tile.n) * T + t[:, None]) * E + tile.e[None, :]
        g = tl.load(inside + at_g, mask=ok[:, None] & (tile.e < E)[None, :], other=0.0)
        total += w[None, :] * g.to(tl.float32)
    return total


@jit
def backward_rows(
    inputs,
    inside,
    inverse,
    grad_x,
    grad_state,
    sizes,
    directions,
    SETS: tl.constexpr,
    PAST: tl.constexpr,
    TAPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of x (N, T, J, E) and, as PAST rows before it, of the state (N, W - 1, E); `directions` is (K, J)."""
    K, J = directions
    T, E = sizes.T, sizes.E
    q = tl.program_id(2).to(tl.int64)
    n = q // J
    column = q % J
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS) - PAST
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    begin = row * 0
    if inputs.left_pad is not None:
        begin += tl.load(inputs.left_pad + n)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for i in range(K // J):
        k = column + i
        p = k if SETS > 1 else k * 0
        total = gather(total, inside, inputs, inverse, Tile(k, n, p, row, e), begin, sizes, TAPS)
    in_x = ((row >= 0) & (row < T))[:, None] & (e < E)[None, :]
    to = grad_x + ((n * T + row[:, None]) * J + column) * E + e[None, :]
    tl.store(to, total.to(grad_x.dtype.element_ty), mask=in_x)
    if grad_state is not None:
        past = grad_state + (n * PAST + row[:, None] + PAST) * E + e[None, :]
        in_state = (row < 0)[:, None] & (e < E)[None, :]
        tl.store(past, total.to(grad_state.dtype.element_ty), mask=in_state)
