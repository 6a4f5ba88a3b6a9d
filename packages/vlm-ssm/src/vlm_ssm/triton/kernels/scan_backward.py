"""The selective scan backward, by parts as the forward.

A program goes back through its chunks. It takes each chunk forward once from the state kept at its beginning, to have
the state before every tile, and then the tiles in reverse, each forward once more with its states in registers.
`reverse_carries` and the forward's `combine_chunks` find what each part gets from the parts after it.
"""

from __future__ import annotations

import triton.language as tl

from vlm_ssm.triton.kernels.maths import LOG2E, jit, sigmoid, silu_slope
from vlm_ssm.triton.kernels.scan_forward import advance
from vlm_ssm.triton.kernels.tile import (
    BEGIN,
    PAD,
    all_zero,
    block_of,
    gated,
    inputs,
    load_row,
    marks,
    own_row,
    put_decays,
    put_row,
    row_of,
    steps,
    summed,
    times,
)

LN2 = tl.constexpr(0.6931471805599453)


@jit
def arriving(
    grad, z, scan_order, k, T, t0, end, z_t, g_t, lane, own, ROWS: tl.constexpr
):  # fmt: skip
    """Of each position of a tile, the gradient of y before the gate."""
    found = ()
    for i in tl.static_range(ROWS):
        limit = tl.where(t0 + i < end, own, 0)
        found = found + (gated(grad, z, row_of(scan_order, k, T, t0 + i, end), z_t, g_t, lane, limit),)
    return found


@jit
def reverse_carries(
    dt, A, C, bias, z, reset, scan_order, grad, carry, decay,
    dt_k, dt_n, dt_t, z_k, z_n, z_t, g_k, g_n, g_t, N, T, E, S, own, padded_len, length,
    SETS: tl.constexpr, SOFTPLUS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """`carry` (K, N, parts, S, E), 0 before: the gradient that each part's own outputs send to the state before it."""
    k, n, q, group, part_of_group, lane, e = block_of(N, E, own, BLOCK)
    part, parts = tl.program_id(1), tl.num_programs(1)
    p = k if SETS > 1 else k * 0
    HAS_RESET: tl.constexpr = reset is not None
    dt += k * dt_k + n * dt_n + e
    C += (q * (E // own) + group) * S * padded_len
    A += p * S * E + e
    grad += k * g_k + n * g_n + e
    if z is not None:
        z += k * z_k + n * z_n + e
    at = (q * parts + part) * S * E + e
    own_bias = own_row(bias, p * E + e, lane, own, BLOCK)
    begin = part.to(tl.int64) * length
    end = tl.minimum(begin + length, T)
    total = tl.zeros([BLOCK], tl.float32)
    forgets = 0
    tiles = tl.cdiv(end - begin, ROWS)
    for j in range(tiles):
        t0 = begin + (tiles - 1 - j) * ROWS
        marked = marks(reset, n, T, t0, end, ROWS)
        raw = inputs(dt, dt_t, t0, end, lane, own, ROWS)
        ds = steps(raw, own_bias, marked, t0, end, HAS_RESET, SOFTPLUS, ROWS)
        gs = arriving(grad, z, scan_order, k, T, t0, end, z_t, g_t, lane, own, ROWS)
        total, forgets = summed(total, forgets, ds, marked, HAS_RESET, ROWS)
        for s in range(S):
            rate = load_row(A + s * E, lane, own) * LOG2E
            g = load_row(carry + at + s * E, lane, own)
            for i in tl.static_range(ROWS - 1, -1, -1):
                g += gs[i] * tl.load(C + s * padded_len + t0 + i)
                g *= tl.exp2(ds[i] * rate)
                if HAS_RESET:
                    g = tl.where(marked[i] == BEGIN, 0.0, g)
            put_row(carry + at + s * E, g, lane, own)
        tl.debug_barrier()
    put_decays(decay + at, A, total, forgets, E, S, lane, own)


@jit
def before_tiles(
    kept, scratch, u, dt, A, B, own_bias, reset, n, T, c0, tiles, end, u_t, dt_t, E, S, padded_len, lane, own,
    HAS_RESET: tl.constexpr, SOFTPLUS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """From the states kept at a chunk's beginning to those before each of its tiles, in scratch."""
    for s in range(S):
        put_row(scratch + s * E, load_row(kept + s * E, lane, own), lane, own)
    tl.debug_barrier()
    for j in range(tiles - 1):
        t0 = c0 + j * ROWS
        marked = marks(reset, n, T, t0, end, ROWS)
        raw = inputs(dt, dt_t, t0, end, lane, own, ROWS)
        ds = steps(raw, own_bias, marked, t0, end, HAS_RESET, SOFTPLUS, ROWS)
        xs = times(inputs(u, u_t, t0, end, lane, own, ROWS), ds, ROWS)
        for s in range(S):
            h = load_row(scratch + (j * S + s) * E, lane, own)
            rate = load_row(A + s * E, lane, own) * LOG2E
            ahead, hs = advance(h, rate, xs, ds, B + s * padded_len + t0, marked, HAS_RESET, ROWS)
            put_row(scratch + ((j + 1) * S + s) * E, hs[ROWS - 1], lane, own)
        tl.debug_barrier()


@jit
def through_states(
    scratch, carry, grad_A, A, B, C, grad_B, grad_C, xs, ds, gs, marked, like, t0, E, S, padded_len, lane, own,
    HAS_RESET: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """A tile in reverse, state by state: the gradients of Δu, and of Δ but for Δu and a factor of ln 2.

    `scratch` holds the states before the tile; `carry` and `grad_A` go on.
    """
    grad_xs = all_zero(like, ROWS)
    grad_ds = all_zero(like, ROWS)
    for s in range(S):
        start = load_row(scratch + s * E, lane, own)
        rate = load_row(A + s * E, lane, own) * LOG2E
        decays, hs = advance(start, rate, xs, ds, B + s * padded_len + t0, marked, HAS_RESET, ROWS)
        g = load_row(carry + s * E, lane, own)
        of_A = load_row(grad_A + s * E, lane, own)
        more_xs = ()
        more_ds = ()
        for i in tl.static_range(ROWS - 1, -1, -1):
            at_t = s * padded_len + t0 + i
            g += gs[i] * tl.load(C + at_t)
            tl.store(grad_C + at_t, tl.sum(gs[i] * hs[i]))
            tl.store(grad_B + at_t, tl.sum(g * xs[i]))
            more_xs = (grad_xs[i] + g * tl.load(B + at_t),) + more_xs
            g *= decays[i]
            before = hs[i - 1] if i > 0 else start
            if HAS_RESET:
                before = tl.where(marked[i] == BEGIN, 0.0, before)
                g = tl.where(marked[i] == BEGIN, 0.0, g)
            change = g * before
            of_A += change * ds[i]
            more_ds = (grad_ds[i] + change * rate,) + more_ds
        grad_xs = more_xs
        grad_ds = more_ds
        put_row(carry + s * E, g, lane, own)
        put_row(grad_A + s * E, of_A, lane, own)
    return grad_xs, grad_ds


@jit
def of_step(grad_x, grad_d, u, raw, own_bias, mark, inside, HAS_RESET: tl.constexpr, SOFTPLUS: tl.constexpr):
    """The gradient of a position's raw step."""
    of_d = grad_d * LN2 + grad_x * u
    if SOFTPLUS:
        of_d *= sigmoid(raw + own_bias)
    if HAS_RESET:
        of_d = tl.where(mark == PAD, 0.0, of_d)
    return tl.where(inside, of_d, 0.0)


@jit
def put_gate(grad_z, acc, grad, z, row, k, lies, out_k, out_t, z_t, g_t, lane, limit):
    """The gradient of a position's gate, once where directions share it."""
    first = tl.where((k == 0).to(tl.int32) + (out_k > 0).to(tl.int32) > 0, limit, 0)
    to = lies + row * out_t
    y = load_row(acc + to, lane, first)
    slope = silu_slope(load_row(z + row * z_t, lane, first))
    put_row(grad_z + to, load_row(grad + row * g_t, lane, first) * y * slope, lane, first)


@jit
def tile(
    u, dt, A, B, C, z, reset, scan_order, acc, scratch, carry, grad, to, grad_u, grad_dt, grad_z,
    grad_A, grad_B, grad_C, sum_D, sum_bias, own_D, own_bias, u_t, dt_t, z_t, g_t, lies, out_k, out_t,
    k, n, t0, end, T, E, S, padded_len, lane, own,
    HAS_RESET: tl.constexpr, SOFTPLUS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Every gradient of the positions from t0 on; those of u and Δ have their row 0 at `to`."""
    to += t0 * E
    marked = marks(reset, n, T, t0, end, ROWS)
    raw = inputs(dt, dt_t, t0, end, lane, own, ROWS)
    ds = steps(raw, own_bias, marked, t0, end, HAS_RESET, SOFTPLUS, ROWS)
    xs = times(inputs(u, u_t, t0, end, lane, own, ROWS), ds, ROWS)
    gs = arriving(grad, z, scan_order, k, T, t0, end, z_t, g_t, lane, own, ROWS)
    grad_xs, grad_ds = through_states(
        scratch, carry, grad_A, A, B, C, grad_B, grad_C, xs, ds, gs, marked, own_D, t0, E, S, padded_len, lane, own,
        HAS_RESET, ROWS,
    )  # fmt: skip
    raw = inputs(dt, dt_t, t0, end, lane, own, ROWS)  # again: they would take too many registers above
    us = inputs(u, u_t, t0, end, lane, own, ROWS)
    for i in tl.static_range(ROWS):
        limit = tl.where(t0 + i < end, own, 0)
        of_d = of_step(
            grad_xs[i], grad_ds[i], us[i], raw[i], own_bias, marked[i], t0 + i < end, HAS_RESET, SOFTPLUS
        )
        sum_bias += of_d
        sum_D += gs[i] * us[i]
        put_row(grad_u + to + i * E, grad_xs[i] * ds[i] + gs[i] * own_D, lane, limit)
        put_row(grad_dt + to + i * E, of_d, lane, limit)
        if z is not None:
            row = row_of(scan_order, k, T, t0 + i, end)
            put_gate(grad_z, acc, grad, z, row, k, lies, out_k, out_t, z_t, g_t, lane, limit)
    return sum_D, sum_bias


@jit
def backward(
    u, dt, A, B, C, D, bias, z, reset, scan_order, acc, starts, scratch, carry, grad,
    grad_u, grad_dt, grad_z, grad_A, grad_B, grad_C, grad_D, grad_bias,
    u_k, u_n, u_t, dt_k, dt_n, dt_t, z_k, z_n, z_t, g_k, g_n, g_t, out_k, out_n, out_t,
    N, T, E, S, own, padded_len, length, chunks,
    SETS: tl.constexpr, SOFTPLUS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """`carry` (K, N, parts, S, E): what each part's state gets from later parts; becomes what the part before gets.

    scratch (K, N, parts, CHUNK / ROWS, S, E). grad_u, grad_dt (K, N, T, E); grad_z and acc lie as the output did;
    grad_B, grad_C (parts of a group, K, N, G, S, room); grad_A (K, N, parts, S, E), 0 before; grad_D, grad_bias
    (K, N, parts, E).
    """
    k, n, q, group, part_of_group, lane, e = block_of(N, E, own, BLOCK)
    part, parts = tl.program_id(1), tl.num_programs(1)
    p = k if SETS > 1 else k * 0
    HAS_RESET: tl.constexpr = reset is not None
    lies = k * out_k + n * out_n + e
    u, dt = u + k * u_k + n * u_n + e, dt + k * dt_k + n * dt_n + e
    matrix = (q * (E // own) + group) * S * padded_len
    sums = matrix + part_of_group.to(tl.int64) * tl.num_programs(2) * (E // own) * S * padded_len
    B, C, grad_B, grad_C = B + matrix, C + matrix, grad_B + sums, grad_C + sums
    A, grad = A + p * S * E + e, grad + k * g_k + n * g_n + e
    if z is not None:
        z += k * z_k + n * z_n + e
    at, to_vector = (q * parts + part) * S * E + e, (q * parts + part) * E + e
    scratch += (q * parts + part) * (CHUNK // ROWS) * S * E + e
    own_bias, own_D = own_row(bias, p * E + e, lane, own, BLOCK), own_row(D, p * E + e, lane, own, BLOCK)
    begin = part.to(tl.int64) * length
    end = tl.minimum(begin + length, T)
    sum_D, sum_bias = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    many = tl.cdiv(end - begin, CHUNK)
    for c in range(many):
        c0 = begin + (many - 1 - c) * CHUNK
        tiles = tl.cdiv(tl.minimum(end - c0, CHUNK), ROWS)
        before_tiles(
            starts + (q * chunks + c0 // CHUNK) * S * E + e, scratch, u, dt, A, B, own_bias, reset, n, T, c0, tiles,
            end, u_t, dt_t, E, S, padded_len, lane, own, HAS_RESET, SOFTPLUS, ROWS,
        )  # fmt: skip
        for back in range(tiles):
            j = tiles - 1 - back
            sum_D, sum_bias = tile(
                u, dt, A, B, C, z, reset, scan_order, acc, scratch + j * S * E, carry + at, grad, q * T * E + e, grad_u,
                grad_dt, grad_z, grad_A + at, grad_B, grad_C, sum_D, sum_bias, own_D, own_bias,
                u_t, dt_t, z_t, g_t, lies, out_k, out_t, k, n, c0 + j * ROWS, end, T, E, S, padded_len, lane, own,
                HAS_RESET, SOFTPLUS, ROWS,
            )  # fmt: skip
            tl.debug_barrier()
    put_row(grad_D + to_vector, sum_D, lane, own)
    put_row(grad_bias + to_vector, sum_bias, lane, own)
