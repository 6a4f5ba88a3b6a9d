"""The selective scan forward.

A program computes one block of channels of one sequence over one part of its positions. With enough programs there is
one part. Otherwise `scan_chunks` runs twice: the first run, without output and from a zero state, finds each part's
contribution to the state and its decay; `combine_chunks` computes the state before each part from these.
"""

from __future__ import annotations

import triton.language as tl

from vlm_ssm.triton.kernels.maths import LOG2E, jit, sigmoid
from vlm_ssm.triton.kernels.tile import (
    BEGIN,
    add_deltas,
    block_of,
    deltas,
    load_flags,
    load_row,
    load_rows,
    of_block,
    products,
    row_of,
    series,
    store_decays,
    store_row,
)

ROWS = 8  # positions of a tile
CHUNK = 64  # positions between two states saved for the backward


@jit
def advance(h, rate, xs, ds, B, flags, HAS_RESET: tl.constexpr, ROWS: tl.constexpr):
    """One state through a tile. B points to the tile's values. -> its decay and its value at each position."""
    decays = ()
    hs = ()
    for i in tl.static_range(ROWS):
        if HAS_RESET:
            h = tl.where(flags[i] == BEGIN, 0.0, h)
        decay = tl.exp2(ds[i] * rate)
        h = decay * h + xs[i] * tl.load(B + i)
        decays = decays + (decay,)
        hs = hs + (h,)
    return decays, hs


@jit
def scaled(us, D, ROWS: tl.constexpr):
    values = ()
    for i in tl.static_range(ROWS):
        values = values + (us[i] * D,)
    return values


@jit
def add_outputs(ys, hs, C, ROWS: tl.constexpr):
    """y of a tile plus one state's contribution. C points to the tile's values."""
    values = ()
    for i in tl.static_range(ROWS):
        values = values + (ys[i] + hs[i] * tl.load(C + i),)
    return values


@jit
def store_outputs(ys, out, acc, x, t0, block, T, ROWS: tl.constexpr):
    """y of a tile: before the gate to `acc` if given, gated to `out`. `acc` has the strides of `out`."""
    for i in tl.static_range(ROWS):
        limit = tl.where(t0 + i < block.end, block.width, 0)
        row = row_of(x.scan_order, t0 + i, block, T)
        y = ys[i]
        if acc is not None:
            store_row(acc + row * out.t, y, block.lane, limit)
        if x.z.at is not None:
            gate = load_row(x.z.at + row * x.z.t, block.lane, limit)
            y = y * gate * sigmoid(gate)
        store_row(out.at + row * out.t, y, block.lane, limit)


@jit
def scan_tile(
    x,
    out,
    acc,
    state,
    starts,
    t0,
    block,
    sizes,
    total,
    has_reset,
    SOFTPLUS: tl.constexpr,
    OUTPUT: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """The positions from t0 on -> Σ Δ of the part so far, and whether its state was reset so far."""
    HAS_RESET: tl.constexpr = x.reset is not None
    flags = load_flags(x.reset, t0, block, sizes.T, ROWS)
    us = load_rows(x.u, t0, block, ROWS)
    raw = load_rows(x.dt, t0, block, ROWS)
    ds = deltas(raw, x, flags, t0, block, SOFTPLUS, ROWS)
    xs = products(us, ds, ROWS)
    ys = scaled(us, x.D, ROWS)
    for s in range(sizes.S):
        h = load_row(state + s * sizes.E, block.lane, block.width)
        rate = load_row(x.A + s * sizes.E, block.lane, block.width) * LOG2E
        if starts is not None:
            limit = tl.where(t0 % CHUNK == 0, block.width, 0)
            to = ((block.q * sizes.chunks + t0 // CHUNK) * sizes.S + s) * sizes.E + block.e
            store_row(starts + to, h, block.lane, limit)
        decays, hs = advance(h, rate, xs, ds, x.B + t0 + s * sizes.padded_len, flags, HAS_RESET, ROWS)
        if OUTPUT:
            ys = add_outputs(ys, hs, x.C + t0 + s * sizes.padded_len, ROWS)
        store_row(state + s * sizes.E, hs[ROWS - 1], block.lane, block.width)
    if OUTPUT:
        store_outputs(ys, out, acc, x, t0, block, sizes.T, ROWS)
    return add_deltas(total, has_reset, ds, flags, x, ROWS)


@jit
def scan_chunks(
    inputs,
    out,
    acc,
    state,
    decay,
    starts,
    sizes,
    SETS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    OUTPUT: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """`state` (K, N, parts, S, E): the state before each part, overwritten by the one after it.

    With `OUTPUT`, y is written to `out`, ungated also to `acc`, and the state before each chunk to `starts`
    (K, N, chunks, S, E). Otherwise the product of all decays is written to `decay` (K, N, parts, S, E).
    """
    block = block_of(sizes, BLOCK)
    x = of_block(inputs, block, sizes, SETS, BLOCK)
    at = (block.q * tl.num_programs(1) + block.part) * sizes.S * sizes.E + block.e
    if acc is not None:
        acc += block.k * out.k + block.n * out.n + block.e
    out = series(out, block)
    total = tl.zeros([BLOCK], tl.float32)
    has_reset = 0
    for t0 in range(block.begin, block.end, ROWS):
        total, has_reset = scan_tile(
            x, out, acc, state + at, starts, t0, block, sizes, total, has_reset, SOFTPLUS, OUTPUT, ROWS, CHUNK
        )
        tl.debug_barrier()
    if decay is not None:
        store_decays(decay + at, x.A, total, has_reset, block, sizes)


@jit
def combine_chunks(first, ends, decay, state, size, parts, REVERSE: tl.constexpr, BLOCK: tl.constexpr):
    """`state` before each part from `first` (Q, S·E), and `ends` and `decay` (Q, parts, S·E) of all parts."""
    q = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    h = tl.zeros([BLOCK], tl.float32)
    if first is not None:
        h = load_row(first + q * size + at, at, size)
    for i in range(parts):
        part = i
        if REVERSE:
            part = parts - 1 - i
        to = (q * parts + part) * size + at
        store_row(state + to, h, at, size)
        h = load_row(decay + to, at, size) * h + load_row(ends + to, at, size)


@jit
def merge(ys, z, acc, out, sizes, K, BLOCK: tl.constexpr):
    """Σ_k ys (K, N, T, E), whose rows are in token order: before the gate to `acc`, gated to `out` (N, T, E)."""
    row = tl.program_id(1).to(tl.int64)
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    N, T, E = sizes
    y = tl.zeros([BLOCK], tl.float32)
    for k in range(K):
        y += load_row(ys + (k * N * T + row) * E + e, e, E)
    if acc is not None:
        store_row(acc + row * E + e, y, e, E)
    if z.at is not None:
        gate = load_row(z.at + row // T * z.n + row % T * z.t + e, e, E)
        y = y * gate * sigmoid(gate)
    store_row(out + row * E + e, y, e, E)
