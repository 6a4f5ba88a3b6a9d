"""The causal depthwise convolution and its SiLU: state, segments and scan orders, forward and backward.

The backward is two kernels, as no two programs may write to one row: one for the gradient of the sum before the SiLU
(and of weight and bias), one that gathers it along every scan order.
"""

from __future__ import annotations

import triton.language as tl

from vlm_ssm.triton.kernels.maths import jit, sigmoid, silu_slope

PADDED = tl.constexpr(2)


@jit
def window(
    x, state, reset, history, left_pad, scan_order, k, n, t, e, j, x_k, x_n, x_t, T, E, TAPS: tl.constexpr
):  # fmt: skip
    """What a window that ends at each position of t (R) holds j positions before it, and whether it is live.

    Inputs before the first live position come from the state (N, TAPS - 1, E); what lies outside is 0.
    """
    inside = t < T
    if reset is not None:
        inside = inside & (tl.load(reset + n * T + t, mask=t < T, other=2) != PADDED)
        inside = inside & (tl.load(history + n * T + t, mask=t < T, other=0).to(tl.int32) >= j)
    source = t - j
    begin = source * 0
    if left_pad is not None:
        begin += tl.load(left_pad + n)
    there = inside & (source >= begin)
    row = source
    if scan_order is not None:
        row = tl.load(scan_order + k * T + source, mask=there, other=0)
    at = x + k * x_k + n * x_n + row[:, None] * x_t + e[None, :]
    value = tl.load(at, mask=there[:, None] & (e < E)[None, :], other=0.0).to(tl.float32)
    if state is not None:
        held = source - begin + (TAPS - 1)
        waiting = inside & (source < begin) & (held >= 0)
        past = state + (n * (TAPS - 1) + held[:, None]) * E + e[None, :]
        value += tl.load(past, mask=waiting[:, None] & (e < E)[None, :], other=0.0).to(tl.float32)
    return value


@jit
def before_silu(
    x, weight, bias, state, reset, history, left_pad, scan_order, k, n, p, t, e, x_k, x_n, x_t, T, E,
    TAPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    if bias is not None:
        total += tl.load(bias + p * E + e, mask=e < E, other=0.0)[None, :]
    for j in tl.static_range(TAPS):
        w = tl.load(weight + (p * TAPS + TAPS - 1 - j) * E + e, mask=e < E, other=0.0)
        value = window(
            x, state, reset, history, left_pad, scan_order, k, n, t, e, j, x_k, x_n, x_t, T, E, TAPS
        )
        total += w[None, :] * value
    return total


@jit
def tile(N, SETS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Direction, sequence, set of parameters, positions (R), channels of this program."""
    q = tl.program_id(2).to(tl.int64)
    k = q // N
    p = k if SETS > 1 else k * 0
    t = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return k, q % N, p, t, tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)


@jit
def forward(
    x, weight, bias, state, reset, history, left_pad, scan_order, out, x_k, x_n, x_t, N, T, E,
    SETS: tl.constexpr, TAPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """weight (P, W, E) and bias (P, E) fp32 -> out (K, N, T, E)."""
    k, n, p, t, e = tile(N, SETS, ROWS, BLOCK)
    y = before_silu(
        x, weight, bias, state, reset, history, left_pad, scan_order, k, n, p, t, e, x_k, x_n, x_t, T, E,
        TAPS, ROWS, BLOCK,
    )  # fmt: skip
    y = y * sigmoid(y)
    mask = (t < T)[:, None] & (e < E)[None, :]
    if reset is not None:
        live = tl.load(reset + n * T + t, mask=t < T, other=2) != PADDED
        y = tl.where(live[:, None], y, 0.0)
    to = out + ((k * N + n) * T + t[:, None]) * E + e[None, :]
    tl.store(to, y.to(out.dtype.element_ty), mask=mask)


@jit
def backward_silu(
    x, weight, bias, state, reset, history, left_pad, scan_order, grad, inside, sums, x_k, x_n, x_t, N, T, E,
    SETS: tl.constexpr, TAPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """grad (K, N, T, E) -> `inside`, that before the SiLU; sums (K, N, tiles, W + 1, E): of weight, then of bias."""
    k, n, p, t, e = tile(N, SETS, ROWS, BLOCK)
    y = before_silu(
        x, weight, bias, state, reset, history, left_pad, scan_order, k, n, p, t, e, x_k, x_n, x_t, T, E,
        TAPS, ROWS, BLOCK,
    )  # fmt: skip
    mask = (t < T)[:, None] & (e < E)[None, :]
    if reset is not None:
        live = tl.load(reset + n * T + t, mask=t < T, other=2) != PADDED
        mask = mask & live[:, None]
    at = ((k * N + n) * T + t[:, None]) * E + e[None, :]
    g = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32) * silu_slope(y)
    g = tl.where(mask, g, 0.0)
    tl.store(inside + at, g.to(inside.dtype.element_ty), mask=(t < T)[:, None] & (e < E)[None, :])
    to = sums + (((k * N + n) * tl.num_programs(1) + tl.program_id(1)) * (TAPS + 1)) * E + e
    tl.store(to + TAPS * E, tl.sum(g, axis=0), mask=e < E)
    for j in tl.static_range(TAPS):
        value = window(
            x, state, reset, history, left_pad, scan_order, k, n, t, e, j, x_k, x_n, x_t, T, E, TAPS
        )
        tl.store(to + (TAPS - 1 - j) * E, tl.sum(g * value, axis=0), mask=e < E)


@jit
def gathered(
    inside, weight, history, inverse, k, n, p, row, begin, e, N, T, E, total, TAPS: tl.constexpr
):  # fmt: skip
    """total + what the windows of direction k send to each of the rows (R); rows before 0 are the state's."""
    at = row
    if inverse is not None:
        at = tl.load(inverse + k * T + row, mask=(row >= 0) & (row < T), other=0)
    at = tl.where(row < 0, begin + row, at)
    real = (row < T) & ((row < 0) | (at >= begin))
    for j in tl.static_range(TAPS):
        t = at + j
        ok = real & (t >= begin) & (t < T)
        if history is not None:
            ok = ok & (tl.load(history + n * T + t, mask=ok, other=0).to(tl.int32) >= j)
        w = tl.load(weight + (p * TAPS + TAPS - 1 - j) * E + e, mask=e < E, other=0.0)
        g = tl.load(
            inside + ((k * N + n) * T + t[:, None]) * E + e[None, :],
            mask=ok[:, None] & (e < E)[None, :], other=0.0,
        )  # fmt: skip
        total += w[None, :] * g.to(tl.float32)
    return total


@jit
def backward_rows(
    inside, weight, history, left_pad, inverse, grad_x, grad_state, N, T, E, K, J,
    SETS: tl.constexpr, PAST: tl.constexpr, TAPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of x (N, T, J, E) and, PAST rows before it, of the state (N, W - 1, E)."""
    q = tl.program_id(2).to(tl.int64)
    n = q // J
    column = q % J
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS) - PAST
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    begin = row * 0
    if left_pad is not None:
        begin += tl.load(left_pad + n)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for i in range(K // J):
        k = column + i
        p = k if SETS > 1 else k * 0
        total = gathered(inside, weight, history, inverse, k, n, p, row, begin, e, N, T, E, total, TAPS)
    own = ((row >= 0) & (row < T))[:, None] & (e < E)[None, :]
    to = grad_x + ((n * T + row[:, None]) * J + column) * E + e[None, :]
    tl.store(to, total.to(grad_x.dtype.element_ty), mask=own)
    if grad_state is not None:
        past = grad_state + (n * PAST + row[:, None] + PAST) * E + e[None, :]
        mask = (row < 0)[:, None] & (e < E)[None, :]
        tl.store(past, total.to(grad_state.dtype.element_ty), mask=mask)
