"""The selective scan backward, by parts of time as the forward.

A program goes through its chunks in reverse. It first recomputes a chunk from its saved state, to have the state before
every tile, then goes through the tiles in reverse, recomputing each with its states in registers. `reverse_carries` and
the forward's `combine_chunks` find the gradient that each part receives from the parts after it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

from vlm_ssm.triton.kernels.maths import LOG2E, jit, sigmoid, silu_slope
from vlm_ssm.triton.kernels.scan_forward import advance
from vlm_ssm.triton.kernels.tile import (
    BEGIN,
    PAD,
    add_deltas,
    block_of,
    deltas,
    grad_before_gate,
    load_flags,
    load_row,
    load_rows,
    of_block,
    products,
    row_of,
    series,
    store_decays,
    store_row,
    zeros,
)

LN2 = tl.constexpr(0.6931471805599453)


class Gradients(NamedTuple):
    """What the backward writes. u, dt (K, N, T, E); z with the strides of `acc`; A (K, N, parts, S, E), 0 before.

    B, C (blocks of a group, K, N, G, S, padded_len); D, bias (K, N, parts, E).
    """

    u: Any
    dt: Any
    z: Any
    A: Any
    B: Any
    C: Any
    D: Any
    bias: Any


@jit
def load_grads(grad, x, t0, block, T, ROWS: tl.constexpr):
    """Gradient of y before the gate at each position of a tile."""
    gs = ()
    for i in tl.static_range(ROWS):
        limit = tl.where(t0 + i < block.end, block.width, 0)
        gs = gs + (grad_before_gate(grad, x.z, row_of(x.scan_order, t0 + i, block, T), block.lane, limit),)
    return gs


@jit
def reverse_carries(
    inputs,
    grad,
    carry,
    decay,
    sizes,
    SETS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """`carry` (K, N, parts, S, E), 0 before: gradient of the state before each part from the part's own outputs."""
    block = block_of(sizes, BLOCK)
    x = of_block(inputs, block, sizes, SETS, BLOCK)
    grad = series(grad, block)
    at = (block.q * tl.num_programs(1) + block.part) * sizes.S * sizes.E + block.e
    total = tl.zeros([BLOCK], tl.float32)
    has_reset = 0
    tiles = tl.cdiv(block.end - block.begin, ROWS)
    for j in range(tiles):
        t0 = block.begin + (tiles - 1 - j) * ROWS
        flags = load_flags(x.reset, t0, block, sizes.T, ROWS)
        ds = deltas(load_rows(x.dt, t0, block, ROWS), x, flags, t0, block, SOFTPLUS, ROWS)
        gs = load_grads(grad, x, t0, block, sizes.T, ROWS)
        total, has_reset = add_deltas(total, has_reset, ds, flags, x, ROWS)
        for s in range(sizes.S):
            rate = load_row(x.A + s * sizes.E, block.lane, block.width) * LOG2E
            g = load_row(carry + at + s * sizes.E, block.lane, block.width)
            for i in tl.static_range(ROWS - 1, -1, -1):
                g += gs[i] * tl.load(x.C + s * sizes.padded_len + t0 + i)
                g *= tl.exp2(ds[i] * rate)
                if x.reset is not None:
                    g = tl.where(flags[i] == BEGIN, 0.0, g)
            store_row(carry + at + s * sizes.E, g, block.lane, block.width)
        tl.debug_barrier()
    store_decays(decay + at, x.A, total, has_reset, block, sizes)


@jit
def states_before_tiles(
    start, scratch, x, c0, tiles, block, sizes, SOFTPLUS: tl.constexpr, ROWS: tl.constexpr
):
    """From the state saved before a chunk, `start`, to those before each of its tiles, in `scratch`."""
    HAS_RESET: tl.constexpr = x.reset is not None
    for s in range(sizes.S):
        h = load_row(start + s * sizes.E, block.lane, block.width)
        store_row(scratch + s * sizes.E, h, block.lane, block.width)
    tl.debug_barrier()
    for j in range(tiles - 1):
        t0 = c0 + j * ROWS
        flags = load_flags(x.reset, t0, block, sizes.T, ROWS)
        ds = deltas(load_rows(x.dt, t0, block, ROWS), x, flags, t0, block, SOFTPLUS, ROWS)
        xs = products(load_rows(x.u, t0, block, ROWS), ds, ROWS)
        for s in range(sizes.S):
            h = load_row(scratch + (j * sizes.S + s) * sizes.E, block.lane, block.width)
            rate = load_row(x.A + s * sizes.E, block.lane, block.width) * LOG2E
            decays, hs = advance(h, rate, xs, ds, x.B + s * sizes.padded_len + t0, flags, HAS_RESET, ROWS)
            to = scratch + ((j + 1) * sizes.S + s) * sizes.E
            store_row(to, hs[ROWS - 1], block.lane, block.width)
        tl.debug_barrier()


@jit
def reverse_states(x, grads, scratch, carry, xs, ds, gs, flags, t0, block, sizes, ROWS: tl.constexpr):
    """A tile in reverse, state by state -> the gradients of Δu, and those of Δ without Δu's share and a factor ln 2.

    `scratch` holds the states before the tile. `carry` and `grads.A` are updated in place.
    """
    HAS_RESET: tl.constexpr = x.reset is not None
    grad_xs = zeros(x.D, ROWS)
    grad_ds = zeros(x.D, ROWS)
    for s in range(sizes.S):
        start = load_row(scratch + s * sizes.E, block.lane, block.width)
        rate = load_row(x.A + s * sizes.E, block.lane, block.width) * LOG2E
        decays, hs = advance(start, rate, xs, ds, x.B + s * sizes.padded_len + t0, flags, HAS_RESET, ROWS)
        g = load_row(carry + s * sizes.E, block.lane, block.width)
        grad_A = load_row(grads.A + s * sizes.E, block.lane, block.width)
        next_xs = ()
        next_ds = ()
        for i in tl.static_range(ROWS - 1, -1, -1):
            at_t = s * sizes.padded_len + t0 + i
            g += gs[i] * tl.load(x.C + at_t)
            tl.store(grads.C + at_t, tl.sum(gs[i] * hs[i]))
            tl.store(grads.B + at_t, tl.sum(g * xs[i]))
            next_xs = (grad_xs[i] + g * tl.load(x.B + at_t),) + next_xs
            g *= decays[i]
            before = hs[i - 1] if i > 0 else start
            if HAS_RESET:
                before = tl.where(flags[i] == BEGIN, 0.0, before)
                g = tl.where(flags[i] == BEGIN, 0.0, g)
            change = g * before
            grad_A += change * ds[i]
            next_ds = (grad_ds[i] + change * rate,) + next_ds
        grad_xs = next_xs
        grad_ds = next_ds
        store_row(carry + s * sizes.E, g, block.lane, block.width)
        store_row(grads.A + s * sizes.E, grad_A, block.lane, block.width)
    return grad_xs, grad_ds


@jit
def grad_raw_delta(grad_x, grad_d, u, raw, flag, inside, x, SOFTPLUS: tl.constexpr):
    """Gradient of a position's `dt`, before bias and softplus."""
    g = grad_d * LN2 + grad_x * u
    if SOFTPLUS:
        g *= sigmoid(raw + x.bias)
    if x.reset is not None:
        g = tl.where(flag == PAD, 0.0, g)
    return tl.where(inside, g, 0.0)


@jit
def store_grad_gate(grad_z, acc, grad, z, row, block, limit):
    """Gradient of one row of the gate; directions that share it (stride 0 in `acc`) write it once."""
    writes = (block.k == 0).to(tl.int32) + (acc.k > 0).to(tl.int32) > 0
    limit = tl.where(writes, limit, 0)
    to = block.k * acc.k + block.n * acc.n + block.e + row * acc.t
    y = load_row(acc.at + to, block.lane, limit)
    slope = silu_slope(load_row(z.at + row * z.t, block.lane, limit))
    g = load_row(grad.at + row * grad.t, block.lane, limit)
    store_row(grad_z + to, g * y * slope, block.lane, limit)


@jit
def tile_gradients(
    x,
    grad,
    acc,
    grads,
    scratch,
    carry,
    sum_D,
    sum_bias,
    t0,
    block,
    sizes,
    SOFTPLUS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """All gradients of the positions from t0 on; `grads` point to the block -> the sums of those of D and bias."""
    flags = load_flags(x.reset, t0, block, sizes.T, ROWS)
    raw = load_rows(x.dt, t0, block, ROWS)
    ds = deltas(raw, x, flags, t0, block, SOFTPLUS, ROWS)
    xs = products(load_rows(x.u, t0, block, ROWS), ds, ROWS)
    gs = load_grads(grad, x, t0, block, sizes.T, ROWS)
    grad_xs, grad_ds = reverse_states(x, grads, scratch, carry, xs, ds, gs, flags, t0, block, sizes, ROWS)
    raw = load_rows(x.dt, t0, block, ROWS)  # loaded again: kept, they would take too many registers above
    us = load_rows(x.u, t0, block, ROWS)
    at = t0 * sizes.E
    for i in tl.static_range(ROWS):
        inside = t0 + i < block.end
        limit = tl.where(inside, block.width, 0)
        g = grad_raw_delta(grad_xs[i], grad_ds[i], us[i], raw[i], flags[i], inside, x, SOFTPLUS)
        sum_bias += g
        sum_D += gs[i] * us[i]
        store_row(grads.u + at + i * sizes.E, grad_xs[i] * ds[i] + gs[i] * x.D, block.lane, limit)
        store_row(grads.dt + at + i * sizes.E, g, block.lane, limit)
        if x.z.at is not None:
            row = row_of(x.scan_order, t0 + i, block, sizes.T)
            store_grad_gate(grads.z, acc, grad, x.z, row, block, limit)
    return sum_D, sum_bias


@jit
def gradients_of_block(grads, at, block, sizes):
    """`grads` with u, dt, A, B and C at the block; `at` is its offset in A."""
    rows = block.q * sizes.T * sizes.E + block.e
    groups = sizes.E // sizes.width
    matrix = (block.q * groups + block.group) * sizes.S * sizes.padded_len
    matrix += block.block_of_group.to(tl.int64) * tl.num_programs(2) * groups * sizes.S * sizes.padded_len
    return Gradients(
        u=grads.u + rows,
        dt=grads.dt + rows,
        z=grads.z,
        A=grads.A + at,
        B=grads.B + matrix,
        C=grads.C + matrix,
        D=grads.D,
        bias=grads.bias,
    )


@jit
def backward(
    inputs,
    grad,
    acc,
    starts,
    scratch,
    carry,
    grads,
    sizes,
    SETS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """All gradients of a scan.

    `carry` (K, N, parts, S, E): gradient of the state after each part, overwritten by that of the state before it.
    `acc` is y before the gate, `starts` the state before each chunk; scratch is (K, N, parts, CHUNK / ROWS, S, E).
    """
    block = block_of(sizes, BLOCK)
    x = of_block(inputs, block, sizes, SETS, BLOCK)
    grad = series(grad, block)
    S, E, part = sizes.S, sizes.E, block.q * tl.num_programs(1) + block.part
    at = part * S * E + block.e
    to_block = gradients_of_block(grads, at, block, sizes)
    scratch += part * (CHUNK // ROWS) * S * E + block.e
    sum_D, sum_bias = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    chunks = tl.cdiv(block.end - block.begin, CHUNK)
    for c in range(chunks):
        c0 = block.begin + (chunks - 1 - c) * CHUNK
        tiles = tl.cdiv(tl.minimum(block.end - c0, CHUNK), ROWS)
        start = starts + (block.q * sizes.chunks + c0 // CHUNK) * S * E + block.e
        states_before_tiles(start, scratch, x, c0, tiles, block, sizes, SOFTPLUS, ROWS)
        for i in range(tiles):
            j = tiles - 1 - i
            before, t0 = scratch + j * S * E, c0 + j * ROWS
            sum_D, sum_bias = tile_gradients(
                x, grad, acc, to_block, before, carry + at, sum_D, sum_bias, t0, block, sizes, SOFTPLUS, ROWS
            )
            tl.debug_barrier()
    store_row(grads.D + part * E + block.e, sum_D, block.lane, block.width)
    store_row(grads.bias + part * E + block.e, sum_bias, block.lane, block.width)
