"""A tile of the scan: `ROWS` positions of one block of channels, each position a vector in registers.

Channels are distributed over threads, so each thread steps through time on its own and keeps the values of a position
in its registers. Tensors that belong together are one NamedTuple, which Triton passes as single arguments.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

from vlm_ssm.triton.kernels.maths import LOG2E, jit, sigmoid, softplus

BEGIN = tl.constexpr(1)
PAD = tl.constexpr(2)


class Rows(NamedTuple):
    """Rows of channels: pointer (None if absent), strides over directions, sequences and positions."""

    at: Any
    k: Any
    n: Any
    t: Any


class Series(NamedTuple):
    """The rows of one block of one sequence: pointer to position 0, stride over positions."""

    at: Any
    t: Any


class Inputs(NamedTuple):
    """Tensors of a scan. A is (P, S, E), B and C are (K, N, G, S, padded_len), D and bias (P, E); None if absent.

    Inside a program (`of_block`) the rows are `Series`, A, B and C point to its block, D and bias are loaded.
    """

    u: Any
    dt: Any
    A: Any
    B: Any
    C: Any
    D: Any
    bias: Any
    z: Any
    reset: Any
    scan_order: Any


class Sizes(NamedTuple):
    """Sequences, positions, channels, states, channels of a group, padded T, positions of a part, chunks of T."""

    N: Any
    T: Any
    E: Any
    S: Any
    width: Any
    padded_len: Any
    length: Any
    chunks: Any


class Block(NamedTuple):
    """One program's share: direction k, sequence n, q = k·N + n, group of B and C, block within the group.

    `part` of time from `begin` to `end`. `lane` are the channels within the group of `width`, `e` those of the tensor.
    """

    k: Any
    n: Any
    q: Any
    group: Any
    block_of_group: Any
    part: Any
    begin: Any
    end: Any
    lane: Any
    width: Any
    e: Any


@jit
def block_of(sizes, BLOCK: tl.constexpr):
    """The `Block` of this program. Blocks stay within a group. What offsets are made of is 64-bit."""
    block = tl.program_id(0)
    part = tl.program_id(1)
    q = tl.program_id(2).to(tl.int64)
    block_of_group = block % tl.cdiv(sizes.width, BLOCK)
    group = block // tl.cdiv(sizes.width, BLOCK)
    lane = block_of_group * BLOCK + tl.arange(0, BLOCK)
    begin = part.to(tl.int64) * sizes.length
    end = tl.minimum(begin + sizes.length, sizes.T)
    e = group * sizes.width + lane
    return Block(q // sizes.N, q % sizes.N, q, group, block_of_group, part, begin, end, lane, sizes.width, e)


@jit
def series(rows, block):
    """The block's rows; absent rows stay absent."""
    at = rows.at
    if at is not None:
        at += block.k * rows.k + block.n * rows.n + block.e
    return Series(at, rows.t)


@jit
def of_block(inputs, block, sizes, SETS: tl.constexpr, BLOCK: tl.constexpr):
    """The block's `Inputs`."""
    p = block.k if SETS > 1 else block.k * 0
    matrix = (block.q * (sizes.E // sizes.width) + block.group) * sizes.S * sizes.padded_len
    vector = p * sizes.E + block.e
    return Inputs(
        u=series(inputs.u, block),
        dt=series(inputs.dt, block),
        A=inputs.A + p * sizes.S * sizes.E + block.e,
        B=inputs.B + matrix,
        C=inputs.C + matrix,
        D=load_vector(inputs.D, vector, block, BLOCK),
        bias=load_vector(inputs.bias, vector, block, BLOCK),
        z=series(inputs.z, block),
        reset=inputs.reset,
        scan_order=inputs.scan_order,
    )


@jit
def load_row(at, lane, limit):
    """fp32; 0 from the limit on."""
    return tl.load(at, mask=lane < limit, other=0.0).to(tl.float32)


@jit
def load_vector(vector, at, block, BLOCK: tl.constexpr):
    """One number a channel; 0 if the vector is absent."""
    values = tl.zeros([BLOCK], tl.float32)
    if vector is not None:
        values = load_row(vector + at, block.lane, block.width)
    return values


@jit
def store_row(at, value, lane, limit):
    tl.store(at, value.to(at.dtype.element_ty), mask=lane < limit)


@jit
def load_flags(reset, t0, block, T, ROWS: tl.constexpr):
    """`reset` at a tile's positions; PAD from the part's end on, 0 everywhere without `reset`."""
    flags = ()
    for i in tl.static_range(ROWS):
        if reset is None:
            flags = flags + (0,)
        else:
            at = reset + block.n * T + t0 + i
            flags = flags + (tl.load(at, mask=t0 + i < block.end, other=2).to(tl.int32),)
    return flags


@jit
def load_rows(rows, t0, block, ROWS: tl.constexpr):
    """The rows of a tile's positions; 0 from the part's end on."""
    values = ()
    for i in tl.static_range(ROWS):
        limit = tl.where(t0 + i < block.end, block.width, 0)
        values = values + (load_row(rows.at + (t0 + i) * rows.t, block.lane, limit),)
    return values


@jit
def deltas(raw, x, flags, t0, block, SOFTPLUS: tl.constexpr, ROWS: tl.constexpr):
    """Δ = softplus(raw + bias) of each position; 0 at padding and from the part's end on."""
    ds = ()
    for i in tl.static_range(ROWS):
        d = raw[i] + x.bias
        if SOFTPLUS:
            d = softplus(d)
        d = tl.where(t0 + i < block.end, d, 0.0)
        if x.reset is not None:
            d = tl.where(flags[i] == PAD, 0.0, d)
        ds = ds + (d,)
    return ds


@jit
def products(left, right, ROWS: tl.constexpr):
    values = ()
    for i in tl.static_range(ROWS):
        values = values + (left[i] * right[i],)
    return values


@jit
def zeros(like, ROWS: tl.constexpr):
    values = ()
    for i in tl.static_range(ROWS):
        values = values + (tl.zeros_like(like),)
    return values


@jit
def add_deltas(total, has_reset, ds, flags, x, ROWS: tl.constexpr):
    """Σ Δ and whether the state was reset, both including this tile: a part's decay follows from the two."""
    for i in tl.static_range(ROWS):
        total += ds[i]
        if x.reset is not None:
            has_reset = tl.where(flags[i] == BEGIN, 1, has_reset)
    return total, has_reset


@jit
def store_decays(decay, A, total, has_reset, block, sizes):
    """The product of all decays of a part, for each state."""
    for s in range(sizes.S):
        rate = load_row(A + s * sizes.E, block.lane, block.width) * LOG2E
        value = tl.where(has_reset == 1, 0.0, tl.exp2(rate * total))
        store_row(decay + s * sizes.E, value, block.lane, block.width)


@jit
def row_of(scan_order, t, block, T):
    """The row of position t of the block's direction."""
    row = t
    if scan_order is not None:
        row = tl.load(scan_order + block.k * T + t, mask=t < block.end, other=0)
    return row


@jit
def grad_before_gate(grad, z, row, lane, limit):
    """Gradient of one row of y before the gate."""
    g = load_row(grad.at + row * grad.t, lane, limit)
    if z.at is not None:
        gate = load_row(z.at + row * z.t, lane, limit)
        g *= gate * sigmoid(gate)
    return g
