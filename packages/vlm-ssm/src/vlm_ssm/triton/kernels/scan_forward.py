"""The selective scan forward.

A program takes one block of channels of one sequence through one part of its positions. Where there are enough
programs there is one part. Else `scan_chunks` runs twice: first without output, from a state of 0, to find what each
part adds to the state and by how much it lets the state before it decay; `combine_chunks` puts the parts together.
"""

from __future__ import annotations

import triton.language as tl

from vlm_ssm.triton.kernels.maths import LOG2E, jit, sigmoid
from vlm_ssm.triton.kernels.tile import (
    BEGIN,
    block_of,
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

ROWS = 8  # positions a tile
CHUNK = 64  # positions between the states that are kept for the backward


@jit
def advance(
    h, rate, xs, ds, B, marked, HAS_RESET: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """One state through a tile, whose B lie at B: its decay at each position, and what it is after it."""
    decays = ()
    after = ()
    for i in tl.static_range(ROWS):
        if HAS_RESET:
            h = tl.where(marked[i] == BEGIN, 0.0, h)
        decay = tl.exp2(ds[i] * rate)
        h = decay * h + xs[i] * tl.load(B + i)
        decays = decays + (decay,)
        after = after + (h,)
    return decays, after


@jit
def scaled(us, D, ROWS: tl.constexpr):
    found = ()
    for i in tl.static_range(ROWS):
        found = found + (us[i] * D,)
    return found


@jit
def with_output(ys, hs, C, ROWS: tl.constexpr):
    """y of a tile with what one state adds, whose C lie at C."""
    found = ()
    for i in tl.static_range(ROWS):
        found = found + (ys[i] + hs[i] * tl.load(C + i),)
    return found


@jit
def put_outputs(
    ys, out, acc, z, scan_order, k, T, t0, end, lies, out_t, z_lies, z_t, lane, own, ROWS: tl.constexpr
):  # fmt: skip
    """y of a tile, before its gate to `acc`, after it to `out`; `lies`, `z_lies`: where direction and block do."""
    for i in tl.static_range(ROWS):
        limit = tl.where(t0 + i < end, own, 0)
        row = row_of(scan_order, k, T, t0 + i, end)
        to = lies + row * out_t
        y = ys[i]
        if acc is not None:
            put_row(acc + to, y, lane, limit)
        if z is not None:
            gate = load_row(z + z_lies + row * z_t, lane, limit)
            y = y * gate * sigmoid(gate)
        put_row(out + to, y, lane, limit)


@jit
def tile(
    u, dt, A, B, C, own_D, own_bias, z, reset, scan_order, state, starts, acc, out, total, forgets,
    u_t, dt_t, z_lies, z_t, lies, out_t, k, n, q, t0, end, T, E, S, lane, own, e, padded_len, chunks,
    SOFTPLUS: tl.constexpr, OUTPUT: tl.constexpr, HAS_RESET: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The positions from t0 on, where B and C lie; -> Σ Δ so far, and whether a position so far began anew."""
    marked = marks(reset, n, T, t0, end, ROWS)
    us = inputs(u, u_t, t0, end, lane, own, ROWS)
    raw = inputs(dt, dt_t, t0, end, lane, own, ROWS)
    ds = steps(raw, own_bias, marked, t0, end, HAS_RESET, SOFTPLUS, ROWS)
    xs = times(us, ds, ROWS)
    ys = scaled(us, own_D, ROWS)
    for s in range(S):
        h = load_row(state + s * E, lane, own)
        rate = load_row(A + s * E, lane, own) * LOG2E
        if starts is not None:
            kept = tl.where(t0 % CHUNK == 0, own, 0)
            put_row(starts + ((q * chunks + t0 // CHUNK) * S + s) * E + e, h, lane, kept)
        decays, hs = advance(h, rate, xs, ds, B + s * padded_len, marked, HAS_RESET, ROWS)
        if OUTPUT:
            ys = with_output(ys, hs, C + s * padded_len, ROWS)
        put_row(state + s * E, hs[ROWS - 1], lane, own)
    if OUTPUT:
        put_outputs(ys, out, acc, z, scan_order, k, T, t0, end, lies, out_t, z_lies, z_t, lane, own, ROWS)
    return summed(total, forgets, ds, marked, HAS_RESET, ROWS)


@jit
def scan_chunks(
    u, dt, A, B, C, D, bias, z, reset, scan_order, state, decay, starts, acc, out,
    u_k, u_n, u_t, dt_k, dt_n, dt_t, z_k, z_n, z_t, out_k, out_n, out_t, N, T, E, S, own, padded_len, length, chunks,
    SETS: tl.constexpr, SOFTPLUS: tl.constexpr, OUTPUT: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """`state` (K, N, parts, S, E) is what each part begins with, and becomes what it ends with.

    With `OUTPUT` y goes to `out`, also before its gate to `acc`, and states to `starts` (K, N, chunks, S, E). Without,
    the product of all decays goes to `decay`. A is (P, S, E); B, C (K, N, G, S, room), room for whole tiles.
    """
    k, n, q, group, part_of_group, lane, e = block_of(N, E, own, BLOCK)
    part, parts = tl.program_id(1), tl.num_programs(1)
    p = k if SETS > 1 else k * 0
    HAS_RESET: tl.constexpr = reset is not None
    u += k * u_k + n * u_n + e
    dt += k * dt_k + n * dt_n + e
    B += (q * (E // own) + group) * S * padded_len
    C += (q * (E // own) + group) * S * padded_len
    A += p * S * E + e
    at = (q * parts + part) * S * E + e
    lies, z_lies = k * out_k + n * out_n + e, k * z_k + n * z_n + e
    own_bias = own_row(bias, p * E + e, lane, own, BLOCK)
    own_D = own_row(D, p * E + e, lane, own, BLOCK)
    begin = part.to(tl.int64) * length
    end = tl.minimum(begin + length, T)
    total = tl.zeros([BLOCK], tl.float32)
    forgets = 0
    for t0 in range(begin, end, ROWS):
        total, forgets = tile(
            u, dt, A, B + t0, C + t0, own_D, own_bias, z, reset, scan_order, state + at, starts, acc, out,
            total, forgets, u_t, dt_t, z_lies, z_t, lies, out_t, k, n, q, t0, end, T, E, S, lane, own, e,
            padded_len, chunks,
            SOFTPLUS, OUTPUT, HAS_RESET, ROWS, CHUNK,
        )  # fmt: skip
        tl.debug_barrier()
    if decay is not None:
        put_decays(decay + at, A, total, forgets, E, S, lane, own)


@jit
def combine_chunks(first, ends, decay, state, size, parts, REVERSE: tl.constexpr, BLOCK: tl.constexpr):
    """What each part begins with: `first` (Q, S·E) goes through all parts of `ends` and `decay` (Q, parts, S·E)."""
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
        put_row(state + to, h, at, size)
        h = load_row(decay + to, at, size) * h + load_row(ends + to, at, size)


@jit
def merge(ys, z, acc, out, z_n, z_t, N, T, E, K, BLOCK: tl.constexpr):
    """Σ_k ys (K, N, T, E) in its row, before the gate to `acc`, after it to `out`, both (N, T, E)."""
    row = tl.program_id(1).to(tl.int64)
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros([BLOCK], tl.float32)
    for k in range(K):
        y += load_row(ys + (k * N * T + row) * E + e, e, E)
    if acc is not None:
        put_row(acc + row * E + e, y, e, E)
    if z is not None:
        gate = load_row(z + row // T * z_n + row % T * z_t + e, e, E)
        y = y * gate * sigmoid(gate)
    put_row(out + row * E + e, y, e, E)
