"""The selective scan backward: recompute each chunk from its saved state, then go through it in reverse.

The carries of four states at a time stay in registers. Sums over channels (dB, dC) are formed lane by lane over a
task's blocks, then over tasks by the caller, so that their order does not depend on the number of threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vlm_ssm.numba.kernels.jit import FIRST, SECOND, TASKS, Kernel, inline, inner
from vlm_ssm.numba.kernels.load_store import load, load_f32, store, store_f32
from vlm_ssm.numba.kernels.scalars import byte, every, index, number, put_number
from vlm_ssm.numba.kernels.scan_forward import (
    CHUNK,
    ROW,
    RowView,
    block_of,
    pack_state,
    read_scan,
    unpack_state,
)
from vlm_ssm.numba.kernels.simd import LANES, LOG2E, exp2, fma, sigmoid, softplus, splat, total
from vlm_ssm.numba.kernels.work_items import next_task, reader, thread_scratch


class Gradient(NamedTuple):
    """Addresses of gradients; `width` is the number of blocks of a task."""

    width: int
    out: RowView
    u: RowView
    dt: RowView
    z: RowView
    last: int
    B: int
    C: int
    A: int
    D: int
    bias: int
    h0: int


TILES = 6 * ROW  # per position: Δ, Δu, gradient of y, of Δu, of Δ, slope of the softplus
LN2 = 0.6931471805599453


@inner
def load_tile(p, r, k, n, b0, t0, t1, group, tiles):
    """Write the tiles of positions t0 to t1 as listed at `TILES`, and the gradient of z."""
    kp = k if p.P > 1 else 0
    for t in range(t0, t1):
        skip = p.reset != 0 and byte(p.reset + n * p.T + t) == 2
        row = t
        if p.scan_order != 0:
            row = index(p.scan_order + 8 * (k * p.T + t))
        u = p.u.at + k * p.u.outer + n * p.u.seq + t * p.u.row
        dt = p.dt.at + k * p.dt.outer + n * p.dt.seq + t * p.dt.row
        z = p.z.at + k * p.z.outer + n * p.z.seq + row * p.z.row
        y = p.acc.at + k * p.acc.outer + n * p.acc.seq + row * p.acc.row
        grad = r.out.at + k * r.out.outer + n * r.out.seq + row * r.out.row
        grad_z = r.z.at + k * r.z.outer + n * r.z.seq + row * r.z.row
        for i in range(group):
            e, count = block_of(p, b0 + i)
            at = tiles + (i * CHUNK + t - t0) * TILES
            x = load(u + e * p.u.item, p.u.item, count)
            d = load(dt + e * p.dt.item, p.dt.item, count)
            slope = splat(1.0)
            if p.bias != 0:
                d = d + load(p.bias + 4 * (kp * p.E + e), 4, count)
            if p.softplus:
                slope = sigmoid(d)
                d = softplus(d)
            if skip:
                d = splat(0.0)
                slope = splat(0.0)
            g = load(grad + e * r.out.item, r.out.item, count)
            if p.z.at != 0:
                gate = load(z + e * p.z.item, p.z.item, count)
                sigma = sigmoid(gate)
                if k == 0 or p.out.outer != 0:
                    scaled = fma(gate * sigma, splat(1.0) - sigma, sigma)
                    store(grad_z + e * r.z.item, g * scaled * load(y + 4 * e, 4, count), r.z.item, count)
                g = g * gate * sigma
            store_f32(at, d)
            store_f32(at + ROW, x * d)
            store_f32(at + 2 * ROW, g)
            store_f32(at + 3 * ROW, splat(0.0))
            store_f32(at + 4 * ROW, splat(0.0))
            store_f32(at + 5 * ROW, slope)


@inner
def recompute(p, length, reset, s, tile, state, start, BC, H):
    """Recompute four states of one block through a chunk into H, rows (4, CHUNK + 1, 2) of states and decays.

    `state` holds the rows A·log2e, carry and dA of each s.
    """
    S4 = (p.S + 3) // 4 * 4
    W = 2 * ROW
    for j in range(4):
        h = splat(0.0)
        if s + j < p.S:
            h = load_f32(start + (s + j) * ROW)
        a = load_f32(state + 3 * (s + j) * ROW)
        to = H + j * (CHUNK + 1) * W
        store_f32(to, h)
        for t in range(length):
            d = load_f32(tile + t * TILES)
            x = load_f32(tile + t * TILES + ROW)
            decay = exp2(d * a)
            if reset != 0 and byte(reset + t) == 1:
                decay = splat(0.0)
                h = splat(0.0)
            h = fma(decay, h, x * every(BC + 8 * (t * S4 + s + j)))
            store_f32(to + (t + 1) * W, h)
            store_f32(to + (t + 1) * W + ROW, decay)


@inline
def four(at, apart):
    """Four rows, `apart` bytes from one to the next."""
    return load_f32(at), load_f32(at + apart), load_f32(at + 2 * apart), load_f32(at + 3 * apart)


@inline
def put_four(at, apart, v0, v1, v2, v3):
    store_f32(at, v0)
    store_f32(at + apart, v1)
    store_f32(at + 2 * apart, v2)
    store_f32(at + 3 * apart, v3)


@inner
def reverse(p, length, s, tile, state, BC, H, lanes):
    """Gradients of four states of one block through a chunk. `lanes`, rows (CHUNK, 4, 2), holds dB and dC by lane."""
    S4 = (p.S + 3) // 4 * 4
    W = 2 * ROW
    at, apart = state + 3 * s * ROW, (CHUNK + 1) * W
    a0, a1, a2, a3 = four(at, 3 * ROW)
    c0, c1, c2, c3 = four(at + ROW, 3 * ROW)
    g0, g1, g2, g3 = four(at + 2 * ROW, 3 * ROW)
    h0, h1, h2, h3 = four(H + length * W, apart)
    for i in range(length):
        t = length - 1 - i
        row = tile + t * TILES
        d, x, gy = load_f32(row), load_f32(row + ROW), load_f32(row + 2 * ROW)
        bc = BC + 8 * (t * S4 + s)
        to = lanes + t * 8 * ROW
        c0 = fma(gy, every(bc + 4), c0)
        c1 = fma(gy, every(bc + 12), c1)
        c2 = fma(gy, every(bc + 20), c2)
        c3 = fma(gy, every(bc + 28), c3)
        store_f32(to, fma(c0, x, load_f32(to)))
        store_f32(to + ROW, fma(gy, h0, load_f32(to + ROW)))
        store_f32(to + 2 * ROW, fma(c1, x, load_f32(to + 2 * ROW)))
        store_f32(to + 3 * ROW, fma(gy, h1, load_f32(to + 3 * ROW)))
        store_f32(to + 4 * ROW, fma(c2, x, load_f32(to + 4 * ROW)))
        store_f32(to + 5 * ROW, fma(gy, h2, load_f32(to + 5 * ROW)))
        store_f32(to + 6 * ROW, fma(c3, x, load_f32(to + 6 * ROW)))
        store_f32(to + 7 * ROW, fma(gy, h3, load_f32(to + 7 * ROW)))
        dx = fma(c0, every(bc), fma(c1, every(bc + 8), load_f32(row + 3 * ROW)))
        store_f32(row + 3 * ROW, fma(c2, every(bc + 16), fma(c3, every(bc + 24), dx)))
        e0, e1, e2, e3 = four(H + (t + 1) * W + ROW, apart)
        c0, c1, c2, c3 = c0 * e0, c1 * e1, c2 * e2, c3 * e3
        h0, h1, h2, h3 = four(H + t * W, apart)
        q0, q1, q2, q3 = c0 * h0, c1 * h1, c2 * h2, c3 * h3
        g0, g1, g2, g3 = fma(q0, d, g0), fma(q1, d, g1), fma(q2, d, g2), fma(q3, d, g3)
        dd = fma(q0, a0, fma(q1, a1, load_f32(row + 4 * ROW)))
        store_f32(row + 4 * ROW, fma(q2, a2, fma(q3, a3, dd)))
    put_four(at + ROW, 3 * ROW, c0, c1, c2, c3)
    put_four(at + 2 * ROW, 3 * ROW, g0, g1, g2, g3)


@inner
def store_gradients(p, r, k, n, b0, t0, t1, group, tiles, sums):
    """Write the gradients of u and Δ from the tiles, and add those of D and the bias to `sums`."""
    kp = k if p.P > 1 else 0
    for t in range(t0, t1):
        u = p.u.at + k * p.u.outer + n * p.u.seq + t * p.u.row
        grad_u = r.u.at + k * r.u.outer + n * r.u.seq + t * r.u.row
        grad_dt = r.dt.at + k * r.dt.outer + n * r.dt.seq + t * r.dt.row
        for i in range(group):
            e, count = block_of(p, b0 + i)
            at = tiles + (i * CHUNK + t - t0) * TILES
            total_at = sums + 2 * i * ROW
            x = load(u + e * p.u.item, p.u.item, count)
            gy, dx = load_f32(at + 2 * ROW), load_f32(at + 3 * ROW)
            du = dx * load_f32(at)
            if p.D != 0:
                du = fma(gy, load(p.D + 4 * (kp * p.E + e), 4, count), du)
            store(grad_u + e * r.u.item, du, r.u.item, count)
            dd = fma(load_f32(at + 4 * ROW), splat(LN2), dx * x) * load_f32(at + 5 * ROW)
            store(grad_dt + e * r.dt.item, dd, r.dt.item, count)
            store_f32(total_at, fma(gy, x, load_f32(total_at)))
            store_f32(total_at + ROW, load_f32(total_at + ROW) + dd)


@inner
def add_lanes(p, r, part, q, g, s, t0, length, lanes):
    """Write dB and dC of four states, summed over lanes, to this part's partial sums."""
    for t in range(length):
        to = 4 * ((((part * p.K * p.N + q) * p.T + t0 + t) * p.G + g) * p.S + s)
        for j in range(min(4, p.S - s)):
            put_number(r.B + to + 4 * j, total(load_f32(lanes + (t * 4 + j) * 2 * ROW)))
            put_number(r.C + to + 4 * j, total(load_f32(lanes + (t * 4 + j) * 2 * ROW + ROW)))


@inner
def load_matrices(p, k, n, g, t0, length, BC):
    """Write B and C of a chunk interleaved, (CHUNK, S4, 2), with zeros beyond S."""
    S4 = (p.S + 3) // 4 * 4
    for t in range(length):
        b = p.B.at + k * p.B.outer + n * p.B.seq + (t0 + t) * p.B.row + 4 * g * p.S
        c = p.C.at + k * p.C.outer + n * p.C.seq + (t0 + t) * p.C.row + 4 * g * p.S
        for s in range(S4):
            put_number(BC + 8 * (t * S4 + s), number(b + 4 * s) if s < p.S else np.float32(0))
            put_number(BC + 8 * (t * S4 + s) + 4, number(c + 4 * s) if s < p.S else np.float32(0))


@inner
def backward_task(p, r, k, n, g, part, scratch):
    """One sequence and direction, `r.width` blocks of one group."""
    S = p.S
    S4 = (S + 3) // 4 * 4
    q = k * p.N + n
    kp = k if p.P > 1 else 0
    per_group = (p.E // p.G + LANES - 1) // LANES
    blocks, b0 = p.G * per_group, g * per_group + part * r.width
    group = min(r.width, per_group - part * r.width)
    tiles = scratch
    state = tiles + r.width * CHUNK * TILES
    sums = state + r.width * S4 * 3 * ROW
    H = sums + r.width * 2 * ROW
    lanes = H + 8 * (CHUNK + 1) * ROW
    BC = lanes + 8 * CHUNK * ROW
    for i in range(group):
        e, count = block_of(p, b0 + i)
        for s in range(S4 * 3):
            store_f32(state + (i * S4 * 3 + s) * ROW, splat(0.0))
        pack_state(state + i * S4 * 3 * ROW, 3, p.A + 4 * (kp * p.E + e) * S, S, count, LOG2E)
        last = r.last + 4 * (q * p.E + e) * S if r.last != 0 else 0
        pack_state(state + (i * S4 * 3 + 1) * ROW, 3, last, S, count, 1.0)
        store_f32(sums + 2 * i * ROW, splat(0.0))
        store_f32(sums + (2 * i + 1) * ROW, splat(0.0))
    chunks = (p.T + CHUNK - 1) // CHUNK
    for done in range(chunks):
        chunk = chunks - 1 - done
        t0 = chunk * CHUNK
        length = min(p.T, t0 + CHUNK) - t0
        reset = p.reset + n * p.T + t0 if p.reset != 0 else 0
        load_matrices(p, k, n, g, t0, length, BC)
        load_tile(p, r, k, n, b0, t0, t0 + length, group, tiles)
        for s in range(0, S4, 4):
            for t in range(8 * length):
                store_f32(lanes + t * ROW, splat(0.0))
            for i in range(group):
                start = p.starts + ((q * chunks + chunk) * blocks + b0 + i) * S * ROW
                tile, block_state = tiles + i * CHUNK * TILES, state + i * S4 * 3 * ROW
                recompute(p, length, reset, s, tile, block_state, start, BC, H)
                reverse(p, length, s, tile, block_state, BC, H, lanes)
            add_lanes(p, r, part, q, g, s, t0, length, lanes)
        store_gradients(p, r, k, n, b0, t0, t0 + length, group, tiles, sums)
    for i in range(group):
        e, count = block_of(p, b0 + i)
        unpack_state(r.A + 4 * (q * p.E + e) * S, state + (i * S4 * 3 + 2) * ROW, 3, S, count)
        unpack_state(r.h0 + 4 * (q * p.E + e) * S, state + (i * S4 * 3 + 1) * ROW, 3, S, count)
        store(r.D + 4 * (q * p.E + e), load_f32(sums + 2 * i * ROW), 4, count)
        store(r.bias + 4 * (q * p.E + e), load_f32(sums + (2 * i + 1) * ROW), 4, count)


read_gradient = reader(Gradient)


@Kernel
def backward(job):
    p = read_scan(index(job + 8 * FIRST))
    r = read_gradient(index(job + 8 * SECOND))
    scratch = thread_scratch(job)
    per_group = (p.E // p.G + LANES - 1) // LANES
    parts = (per_group + r.width - 1) // r.width
    i = next_task(job, 0)
    while i < index(job + 8 * TASKS):
        q = i // (p.G * parts)
        backward_task(p, r, q // p.N, q % p.N, i // parts % p.G, i % parts, scratch)
        i = next_task(job, 0)


def scratch_floats(width, states):
    """fp32 numbers of scratch memory a thread."""
    S4 = -(-states // 4) * 4
    rows = width * (6 * CHUNK + 3 * S4 + 2) + 8 * (CHUNK + 1) + 8 * CHUNK
    return rows * LANES + 2 * CHUNK * S4
