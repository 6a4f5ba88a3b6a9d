"""A tile of the scan: a few positions of one block of channels, each position a vector of its own.

Channels are spread over the threads, so a thread walks through time alone, and what it computes for a position stays
in its registers.
"""

from __future__ import annotations

import triton.language as tl

from vlm_ssm.triton.kernels.maths import LOG2E, jit, sigmoid, softplus

BEGIN = tl.constexpr(1)
PAD = tl.constexpr(2)


@jit
def block_of(N, E, own, BLOCK: tl.constexpr):
    """Of this program: direction, sequence, their joint number, group, part of the group, its channels (…, within it).

    Blocks stay within a group of `own` channels. 64-bit where offsets are made of it.
    """
    block = tl.program_id(0)
    q = tl.program_id(2).to(tl.int64)
    part_of_group = block % tl.cdiv(own, BLOCK)
    group = block // tl.cdiv(own, BLOCK)
    lane = part_of_group * BLOCK + tl.arange(0, BLOCK)
    return q // N, q % N, q, group, part_of_group, lane, group * own + lane


@jit
def load_row(at, lane, limit):
    """fp32; 0 beyond the limit."""
    return tl.load(at, mask=lane < limit, other=0.0).to(tl.float32)


@jit
def own_row(vector, at, lane, own, BLOCK: tl.constexpr):
    """Of a vector that may not be there: 0 then."""
    found = tl.zeros([BLOCK], tl.float32)
    if vector is not None:
        found = load_row(vector + at, lane, own)
    return found


@jit
def put_row(at, value, lane, limit):
    tl.store(at, value.to(at.dtype.element_ty), mask=lane < limit)


@jit
def marks(reset, n, T, t0, end, ROWS: tl.constexpr):
    """The flags of a tile's positions; padding beyond `end`."""
    found = ()
    for i in tl.static_range(ROWS):
        if reset is None:
            found = found + (0,)
        else:
            found = found + (tl.load(reset + n * T + t0 + i, mask=t0 + i < end, other=2).to(tl.int32),)
    return found


@jit
def inputs(u, u_t, t0, end, lane, own, ROWS: tl.constexpr):
    """Rows t0, t0 + 1, …"""
    found = ()
    for i in tl.static_range(ROWS):
        found = found + (load_row(u + (t0 + i) * u_t, lane, tl.where(t0 + i < end, own, 0)),)
    return found


@jit
def steps(raw, bias, marked, t0, end, HAS_RESET: tl.constexpr, SOFTPLUS: tl.constexpr, ROWS: tl.constexpr):
    """Δ of each position from its row: softplus(raw + bias), 0 where nothing happens."""
    found = ()
    for i in tl.static_range(ROWS):
        step = raw[i] + bias
        if SOFTPLUS:
            step = softplus(step)
        step = tl.where(t0 + i < end, step, 0.0)
        if HAS_RESET:
            step = tl.where(marked[i] == PAD, 0.0, step)
        found = found + (step,)
    return found


@jit
def times(left, right, ROWS: tl.constexpr):
    found = ()
    for i in tl.static_range(ROWS):
        found = found + (left[i] * right[i],)
    return found


@jit
def summed(total, forgets, ds, marked, HAS_RESET: tl.constexpr, ROWS: tl.constexpr):
    """Σ Δ with a tile's, and whether a position so far began anew: what a part's decay is made of."""
    for i in tl.static_range(ROWS):
        total += ds[i]
        if HAS_RESET:
            forgets = tl.where(marked[i] == BEGIN, 1, forgets)
    return total, forgets


@jit
def put_decays(decay, A, total, forgets, E, S, lane, own):
    """The product of all decays of a part, for each state."""
    for s in range(S):
        rate = load_row(A + s * E, lane, own) * LOG2E
        put_row(decay + s * E, tl.where(forgets == 1, 0.0, tl.exp2(rate * total)), lane, own)


@jit
def all_zero(like, ROWS: tl.constexpr):
    found = ()
    for i in tl.static_range(ROWS):
        found = found + (tl.zeros_like(like),)
    return found


@jit
def row_of(scan_order, k, T, t, end):
    """Where position t of direction k lies."""
    row = t
    if scan_order is not None:
        row = tl.load(scan_order + k * T + t, mask=t < end, other=0)
    return row


@jit
def gated(grad, z, row, z_t, g_t, lane, limit):
    """The gradient of y before the gate."""
    g = load_row(grad + row * g_t, lane, limit)
    if z is not None:
        gate = load_row(z + row * z_t, lane, limit)
        g *= gate * sigmoid(gate)
    return g
