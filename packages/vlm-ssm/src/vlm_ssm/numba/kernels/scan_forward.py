"""The selective scan forward: softplus, recurrence, D and gate in one pass, rows in their scan order.

Lanes are channels. The state of a block of sixteen channels stays in the L1 cache. A task processes four blocks chunk
by chunk, so that memory is read in whole cache lines and prefetched one chunk ahead.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vlm_ssm.numba.kernels.jit import FIRST, TASKS, Kernel, inline, inner
from vlm_ssm.numba.kernels.load_store import load, load_f32, store, store_f32
from vlm_ssm.numba.kernels.scalars import byte, every, index, number, prefetch, put_number
from vlm_ssm.numba.kernels.simd import LANES, LOG2E, exp2, fma, sigmoid, softplus, splat
from vlm_ssm.numba.kernels.work_items import next_task, reader, thread_scratch

ROW = 4 * LANES
CHUNK = 32
GROUP = 4


class RowView(NamedTuple):
    """Address of rows of channels, byte strides over directions, sequences and positions, and item size 4 or 2."""

    at: int
    outer: int
    seq: int
    row: int
    item: int


NULL_VIEW = RowView(0, 0, 0, 0, 0)


class Scan(NamedTuple):
    """Shapes and addresses; an address of 0 means that the tensor is absent.

    K directions of N sequences of T positions; `P` is K if each direction has its own parameters, else 1. z, acc and
    out hold rows (N, T, E), shared by all directions if their `outer` is 0.
    """

    K: int
    N: int
    T: int
    E: int
    S: int
    G: int
    P: int
    softplus: int
    u: RowView  # (K, N, T, E)
    dt: RowView
    B: RowView  # (K, N, T, G, S) fp32
    C: RowView
    z: RowView
    acc: RowView  # fp32: sum over directions, before the gate
    out: RowView
    A: int  # (P, E, S) fp32
    bias: int  # (P, E) fp32
    D: int
    reset: int  # (N, T) bytes, 1: start of a segment, 2: padding
    scan_order: int  # (K, T) int64
    h0: int  # (K, N, E, S) fp32
    last: int
    starts: int  # (K, N, chunks, blocks, S, 16) fp32: state before each chunk


@inline
def pack_state(at, row_step, source, states, count, scale):
    """(count, S) row-major fp32 at `source` -> (S, 16) at `at`, in every `row_step`-th row, times `scale`.

    Absent lanes, and all of them for a `source` of 0, are 0.
    """
    for s in range(states):
        for lane in range(LANES):
            x = np.float32(0)
            if lane < count and source != 0:
                x = number(source + 4 * (lane * states + s))
            put_number(at + 4 * (row_step * s * LANES + lane), x * np.float32(scale))


@inline
def unpack_state(target, at, row_step, states, count):
    """The inverse of `pack_state`, without its scale."""
    for s in range(states):
        for lane in range(count):
            put_number(target + 4 * (lane * states + s), number(at + 4 * (row_step * s * LANES + lane)))


@inline
def block_of(p, block):
    """Block number -> its first channel, and its number of channels (at most 16; a block stays within one group)."""
    width = p.E // p.G
    per_group = (width + LANES - 1) // LANES
    first = block % per_group * LANES
    return block // per_group * width + first, min(LANES, width - first)


@inner
def load_tile(p, k, n, b0, t0, t1, group, tiles):
    """Write Δ, Δu and Du of the blocks at positions t0 to t1 to tiles."""
    kp = k if p.P > 1 else 0
    for t in range(t0, t1):
        skip = p.reset != 0 and byte(p.reset + n * p.T + t) == 2
        u = p.u.at + k * p.u.outer + n * p.u.seq + t * p.u.row
        dt = p.dt.at + k * p.dt.outer + n * p.dt.seq + t * p.dt.row
        for i in range(group):
            e, count = block_of(p, b0 + i)
            at = tiles + (i * CHUNK + t - t0) * 3 * ROW
            x = load(u + e * p.u.item, p.u.item, count)
            d = load(dt + e * p.dt.item, p.dt.item, count)
            if p.bias != 0:
                d = d + load(p.bias + 4 * (kp * p.E + e), 4, count)
            if p.softplus:
                d = softplus(d)
            if skip:
                d = splat(0.0)
            store_f32(at, d)
            store_f32(at + ROW, x * d)
            if p.D != 0:
                store_f32(at + 2 * ROW, x * load(p.D + 4 * (kp * p.E + e), 4, count))
            else:
                store_f32(at + 2 * ROW, splat(0.0))


@inner
def steps(p, k, n, e, t0, t1, h, tile):
    """The recurrence of one block of channels from t0 to t1."""
    S = p.S
    g = e // (p.E // p.G)
    B = p.B.at + k * p.B.outer + n * p.B.seq + 4 * g * S
    C = p.C.at + k * p.C.outer + n * p.C.seq + 4 * g * S
    pu = p.u.at + k * p.u.outer + n * p.u.seq + e * p.u.item
    pd = p.dt.at + k * p.dt.outer + n * p.dt.seq + e * p.dt.item
    pz = p.z.at + k * p.z.outer + n * p.z.seq + e * p.z.item
    pa = p.acc.at + k * p.acc.outer + n * p.acc.seq + 4 * e
    po = p.out.at + k * p.out.outer + n * p.out.seq + e * p.out.item
    for t in range(t0, t1):
        if p.reset != 0 and byte(p.reset + n * p.T + t) == 1:
            for s in range(S):
                store_f32(h + 2 * s * ROW, splat(0.0))
        row = t
        if p.scan_order != 0:
            row = index(p.scan_order + 8 * (k * p.T + t))
        prefetch(pu + (t + CHUNK) * p.u.row)
        prefetch(pd + (t + CHUNK) * p.dt.row)
        if p.z.at != 0:
            prefetch(pz + row * p.z.row)
        if p.acc.at != 0:
            prefetch(pa + row * p.acc.row)
        prefetch(po + row * p.out.row)
        at = tile + (t - t0) * 3 * ROW
        d = load_f32(at)
        x = load_f32(at + ROW)
        y = load_f32(at + 2 * ROW)
        b = B + t * p.B.row
        c = C + t * p.C.row
        for s in range(S):
            at_s = h + 2 * s * ROW
            v = fma(exp2(d * load_f32(at_s + ROW)), load_f32(at_s), x * every(b + 4 * s))
            store_f32(at_s, v)
            y = fma(v, every(c + 4 * s), y)
        store_f32(at + 2 * ROW, y)


@inner
def store_tile(p, k, n, b0, t0, t1, group, tiles):
    """Add y of this direction to the others', gate it, and write it to its rows in the scan order."""
    for t in range(t0, t1):
        row = t
        if p.scan_order != 0:
            row = index(p.scan_order + 8 * (k * p.T + t))
        z = p.z.at + k * p.z.outer + n * p.z.seq + row * p.z.row
        acc = p.acc.at + k * p.acc.outer + n * p.acc.seq + row * p.acc.row
        out = p.out.at + k * p.out.outer + n * p.out.seq + row * p.out.row
        for i in range(group):
            e, count = block_of(p, b0 + i)
            y = load_f32(tiles + ((i * CHUNK + t - t0) * 3 + 2) * ROW)
            if p.acc.at != 0:
                if k > 0 and p.acc.outer == 0:
                    y = y + load(acc + 4 * e, 4, count)
                store(acc + 4 * e, y, 4, count)
            if p.out.outer != 0 or k == p.K - 1:
                if p.z.at != 0:
                    gate = load(z + e * p.z.item, p.z.item, count)
                    y = y * gate * sigmoid(gate)
                store(out + e * p.out.item, y, p.out.item, count)


@inner
def forward_task(p, n, b0, scratch):
    """One sequence, `GROUP` blocks from b0 on, all directions."""
    S = p.S
    blocks = p.G * ((p.E // p.G + LANES - 1) // LANES)
    chunks = (p.T + CHUNK - 1) // CHUNK
    group = min(GROUP, blocks - b0)
    tiles = scratch + 2 * GROUP * S * ROW
    for k in range(p.K):
        q = k * p.N + n
        kp = k if p.P > 1 else 0
        for i in range(group):
            e, count = block_of(p, b0 + i)
            pack_state(scratch + (2 * i * S + 1) * ROW, 2, p.A + 4 * (kp * p.E + e) * S, S, count, LOG2E)
            h0 = p.h0 + 4 * (q * p.E + e) * S if p.h0 != 0 else 0
            pack_state(scratch + 2 * i * S * ROW, 2, h0, S, count, 1.0)
        for chunk in range(chunks):
            t0 = chunk * CHUNK
            t1 = min(p.T, t0 + CHUNK)
            load_tile(p, k, n, b0, t0, t1, group, tiles)
            for i in range(group):
                e, _ = block_of(p, b0 + i)
                if p.starts != 0:
                    to = p.starts + ((q * chunks + chunk) * blocks + b0 + i) * S * ROW
                    for s in range(S):
                        store_f32(to + s * ROW, load_f32(scratch + 2 * (i * S + s) * ROW))
                steps(p, k, n, e, t0, t1, scratch + 2 * i * S * ROW, tiles + i * CHUNK * 3 * ROW)
            store_tile(p, k, n, b0, t0, t1, group, tiles)
        if p.last != 0:
            for i in range(group):
                e, count = block_of(p, b0 + i)
                unpack_state(p.last + 4 * (q * p.E + e) * S, scratch + 2 * i * S * ROW, 2, S, count)


read_scan = reader(Scan)


def scratch_floats(states):
    """fp32 numbers of scratch memory a thread: state and A of each block, and tiles of Δ, Δu and y."""
    return GROUP * LANES * (2 * states + 3 * CHUNK)


@Kernel
def forward(job):
    p = read_scan(index(job + 8 * FIRST))
    scratch = thread_scratch(job)
    groups = (p.G * ((p.E // p.G + LANES - 1) // LANES) + GROUP - 1) // GROUP
    i = next_task(job, 0)
    while i < index(job + 8 * TASKS):
        forward_task(p, i // groups, i % groups * GROUP, scratch)
        i = next_task(job, 0)
