"""The causal depthwise convolution and its SiLU: state, segments and scan orders by address, forward and backward.

The backward has two kernels. The first computes the gradient of the sum before the SiLU, and those of weight and bias.
The second gathers it along every scan order, so that no two tasks write to the same row.
"""

from __future__ import annotations

from typing import NamedTuple

from vlm_ssm.numba.kernels.jit import FIRST, SECOND, TASKS, Kernel, inline, inner
from vlm_ssm.numba.kernels.load_store import load, load_f32, store, store_f32
from vlm_ssm.numba.kernels.scalars import byte, index, put_index
from vlm_ssm.numba.kernels.scan_forward import ROW, RowView
from vlm_ssm.numba.kernels.simd import LANES, fma, sigmoid, splat
from vlm_ssm.numba.kernels.work_items import next_task, reader, thread_scratch

ROWS = 64  # positions of a task
GATHER_ROWS = 16  # rows of a task of `backward_rows`
SPAN = 8  # blocks of channels in one pass over a task's positions


class Conv(NamedTuple):
    """Shapes and addresses; an address of 0 means that the tensor is absent."""

    K: int
    N: int
    T: int
    E: int
    W: int
    P: int
    x: RowView  # (N, T, E), or (N, T, K, E) if `outer`
    out: RowView  # (K, N, T, E)
    state: RowView  # (N, W-1, E)
    weight: int  # (P, W, E) fp32
    bias: int  # (P, E) fp32
    reset: int  # (N, T) bytes, 2: padding
    history: int  # (N, T) bytes, positions since the segment's start
    left_pad: int  # (N) int64, padding in front
    scan_order: int  # (K, T) int64


@inline
def source(p, k, n, t, j):
    """Address of row t - j of direction k, in the state if it precedes the first row; 0 outside the segment."""
    if p.reset != 0 and byte(p.reset + n * p.T + t) == 2:
        return 0
    if p.history != 0 and byte(p.history + n * p.T + t) < j:
        return 0
    left_pad = index(p.left_pad + 8 * n) if p.left_pad != 0 else 0
    if t - j < left_pad:
        row = t - j - left_pad + p.W - 1
        return p.state.at + n * p.state.seq + row * p.state.row if (p.state.at != 0 and row >= 0) else 0
    row = index(p.scan_order + 8 * (k * p.T + t - j)) if p.scan_order != 0 else t - j
    return p.x.at + k * p.x.outer + n * p.x.seq + row * p.x.row


@inline
def before_silu(p, kp, e, count, taps):
    """bias + Σ_j weight_j · x_{t-j} of one block; `taps` is an array of the W row addresses."""
    v = load(p.bias + 4 * (kp * p.E + e), 4, count) if p.bias != 0 else splat(0.0)
    for j in range(p.W):
        row = index(taps + 8 * j)
        if row != 0:
            w = load(p.weight + 4 * ((kp * p.W + p.W - 1 - j) * p.E + e), 4, count)
            v = fma(w, load(row + e * p.x.item, p.x.item, count), v)
    return v


@inner
def forward_rows(p, k, n, t0, taps):
    kp = k if p.P > 1 else 0
    for t in range(t0, min(p.T, t0 + ROWS)):
        for j in range(p.W):
            put_index(taps + 8 * j, source(p, k, n, t, j))
        live = p.reset == 0 or byte(p.reset + n * p.T + t) != 2
        out = p.out.at + k * p.out.outer + n * p.out.seq + t * p.out.row
        for e in range(0, p.E, LANES):
            count = min(LANES, p.E - e)
            v = splat(0.0)
            if live:
                v = before_silu(p, kp, e, count, taps)
                v = v * sigmoid(v)
            store(out + e * p.out.item, v, p.out.item, count)


read_conv = reader(Conv)


@Kernel
def forward(job):
    p = read_conv(index(job + 8 * FIRST))
    taps = thread_scratch(job)
    chunks = (p.T + ROWS - 1) // ROWS
    i = next_task(job, 0)
    while i < index(job + 8 * TASKS):
        q = i // chunks
        forward_rows(p, q // p.N, q % p.N, i % chunks * ROWS, taps)
        i = next_task(job, 0)


class Gradient(NamedTuple):
    """Tensors of the backward pass that are no arguments of the forward."""

    out: RowView  # read
    inside: RowView  # before the SiLU; as out
    x: RowView
    state: RowView
    sums: int  # (tasks, W+1, E) fp32: weight, then bias
    inverse: int  # (K, T) int64


@inner
def backward_silu(p, r, k, n, t0, sums, scratch, taps):
    """Gradient before the SiLU at one task's positions; partial sums of weight's and bias's gradients to `sums`."""
    kp = k if p.P > 1 else 0
    for e0 in range(0, p.E, SPAN * LANES):
        blocks = min(SPAN, (p.E - e0 + LANES - 1) // LANES)
        for zero in range(blocks * (p.W + 1)):
            store_f32(scratch + zero * ROW, splat(0.0))
        for t in range(t0, min(p.T, t0 + ROWS)):
            for j in range(p.W):
                put_index(taps + 8 * j, source(p, k, n, t, j))
            live = p.reset == 0 or byte(p.reset + n * p.T + t) != 2
            out = r.out.at + k * r.out.outer + n * r.out.seq + t * r.out.row
            inside = r.inside.at + k * r.inside.outer + n * r.inside.seq + t * r.inside.row
            for i in range(blocks):
                e = e0 + i * LANES
                count = min(LANES, p.E - e)
                g = splat(0.0)
                if live:
                    v = before_silu(p, kp, e, count, taps)
                    s = sigmoid(v)
                    g = load(out + e * r.out.item, r.out.item, count) * fma(v * s, splat(1.0) - s, s)
                store(inside + e * r.inside.item, g, r.inside.item, count)
                at = scratch + i * (p.W + 1) * ROW
                for j in range(p.W):
                    row = index(taps + 8 * j)
                    if row != 0:
                        to = at + (p.W - 1 - j) * ROW
                        store_f32(to, fma(g, load(row + e * p.x.item, p.x.item, count), load_f32(to)))
                store_f32(at + p.W * ROW, load_f32(at + p.W * ROW) + g)
        for i in range(blocks):
            e = e0 + i * LANES
            for j in range(p.W + 1):
                v = load_f32(scratch + (i * (p.W + 1) + j) * ROW)
                store(sums + 4 * (j * p.E + e), v, 4, min(LANES, p.E - e))


read_gradient = reader(Gradient)


@Kernel
def backward_inside(job):
    p = read_conv(index(job + 8 * FIRST))
    r = read_gradient(index(job + 8 * SECOND))
    scratch = thread_scratch(job)
    taps = scratch + SPAN * (p.W + 1) * ROW
    chunks = (p.T + ROWS - 1) // ROWS
    i = next_task(job, 0)
    while i < index(job + 8 * TASKS):
        q = i // chunks
        sums = r.sums + 4 * i * (p.W + 1) * p.E
        backward_silu(p, r, q // p.N, q % p.N, i % chunks * ROWS, sums, scratch, taps)
        i = next_task(job, 0)


def scratch_floats(taps):
    """fp32 numbers of scratch memory a thread: partial sums of `SPAN` blocks, and the addresses of one window."""
    return SPAN * (taps + 1) * LANES + 2 * taps


@inner
def gather(p, r, n, row, k0, k1, target, item):
    """Gradient of input row `row` (a state row if negative) over the windows of directions k0 to k1."""
    left_pad = index(p.left_pad + 8 * n) if p.left_pad != 0 else 0
    for e in range(0, p.E, LANES):
        count = min(LANES, p.E - e)
        v = splat(0.0)
        for k in range(k0, k1):
            kp = k if p.P > 1 else 0
            at = left_pad + row if row < 0 else row
            if row >= 0 and p.scan_order != 0:
                at = index(r.inverse + 8 * (k * p.T + row))
            for j in range(p.W):
                t = at + j
                if t < left_pad or t >= p.T or (row >= 0 and at < left_pad):
                    continue
                if p.history != 0 and byte(p.history + n * p.T + t) < j:
                    continue
                g = r.inside.at + k * r.inside.outer + n * r.inside.seq + t * r.inside.row
                w = load(p.weight + 4 * ((kp * p.W + p.W - 1 - j) * p.E + e), 4, count)
                v = fma(w, load(g + e * r.inside.item, r.inside.item, count), v)
        store(target + e * item, v, item, count)


@inner
def backward_row(p, r, n, i):
    """Gradient of row i of the state followed by x."""
    past = p.W - 1 if r.state.at != 0 else 0
    if i < past:
        gather(p, r, n, i - past, 0, p.K, r.state.at + n * r.state.seq + i * r.state.row, r.state.item)
        return
    to = r.x.at + n * r.x.seq + (i - past) * r.x.row
    if r.x.outer == 0:
        gather(p, r, n, i - past, 0, p.K, to, r.x.item)
        return
    for k in range(p.K):
        gather(p, r, n, i - past, k, k + 1, to + k * r.x.outer, r.x.item)


@Kernel
def backward_rows(job):
    p = read_conv(index(job + 8 * FIRST))
    r = read_gradient(index(job + 8 * SECOND))
    rows = p.T + (p.W - 1 if r.state.at != 0 else 0)
    i = next_task(job, 0)
    while i < index(job + 8 * TASKS):
        for row in range(i * GATHER_ROWS, min(p.N * rows, i * GATHER_ROWS + GATHER_ROWS)):
            backward_row(p, r, row // rows, row % rows)
        i = next_task(job, 0)
