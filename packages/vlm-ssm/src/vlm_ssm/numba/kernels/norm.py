"""Residual addition and RMSNorm in one pass over the rows, forward and backward."""

from __future__ import annotations

from typing import NamedTuple

from vlm_ssm.numba.kernels.jit import FIRST, SECOND, TASKS, Kernel, inner
from vlm_ssm.numba.kernels.load_store import load, store
from vlm_ssm.numba.kernels.scalars import index, number, put_number
from vlm_ssm.numba.kernels.simd import LANES, fma, splat, total
from vlm_ssm.numba.kernels.work_items import next_task, reader

ROWS = 16  # rows a task


class Norm(NamedTuple):
    """Addresses of contiguous rows of M numbers; 0 means absent. eps is the address of one fp32."""

    rows: int
    M: int
    residual: int  # fp32
    out: int  # added to the residual, `item_out` bytes each
    item_out: int
    weight: int  # fp32
    eps: int
    summed: int  # fp32
    y: int
    item_y: int
    scale: int  # fp32, one a row


@inner
def forward_row(p, row):
    squares = splat(0.0)
    for m in range(0, p.M, LANES):
        count = min(LANES, p.M - m)
        at = 4 * (row * p.M + m)
        v = load(p.residual + at, 4, count)
        if p.out != 0:
            v = v + load(p.out + (row * p.M + m) * p.item_out, p.item_out, count)
            store(p.summed + at, v, 4, count)
        squares = fma(v, v, squares)
    scale = (total(squares) / p.M + number(p.eps)) ** -0.5
    put_number(p.scale + 4 * row, scale)
    source = p.summed if p.out != 0 else p.residual
    for m in range(0, p.M, LANES):
        count = min(LANES, p.M - m)
        v = load(source + 4 * (row * p.M + m), 4, count) * splat(scale) * load(p.weight + 4 * m, 4, count)
        store(p.y + (row * p.M + m) * p.item_y, v, p.item_y, count)


read_norm = reader(Norm)


@Kernel
def forward(job):
    p = read_norm(index(job + 8 * FIRST))
    i = next_task(job, 0)
    while i < index(job + 8 * TASKS):
        for row in range(i * ROWS, min(p.rows, i * ROWS + ROWS)):
            forward_row(p, row)
        i = next_task(job, 0)


class Gradient(NamedTuple):
    """Addresses of gradients. `sums` (tasks, M) are partial sums of the weight's gradient."""

    y: int
    summed: int  # of the sum, from its later uses; 0 if there are none
    residual: int
    sums: int


@inner
def backward_row(p, r, row, sums):
    """∂/∂v of v·s·w with s = (mean v² + eps)^-½: s·(g·w - v·s²·mean(g·w·v))."""
    dot = splat(0.0)
    scale = number(p.scale + 4 * row)
    for m in range(0, p.M, LANES):
        count = min(LANES, p.M - m)
        v = load(p.summed + 4 * (row * p.M + m), 4, count)
        g = load(r.y + (row * p.M + m) * p.item_y, p.item_y, count)
        dot = fma(g * load(p.weight + 4 * m, 4, count), v, dot)
        store(sums + 4 * m, fma(g * splat(scale), v, load(sums + 4 * m, 4, count)), 4, count)
    mean = splat(-total(dot) / p.M * scale * scale)
    for m in range(0, p.M, LANES):
        count = min(LANES, p.M - m)
        at = 4 * (row * p.M + m)
        g = load(r.y + (row * p.M + m) * p.item_y, p.item_y, count) * load(p.weight + 4 * m, 4, count)
        d = fma(load(p.summed + at, 4, count), mean, g) * splat(scale)
        if r.summed != 0:
            d = d + load(r.summed + at, 4, count)
        store(r.residual + at, d, 4, count)


read_gradient = reader(Gradient)


@Kernel
def backward(job):
    p = read_norm(index(job + 8 * FIRST))
    r = read_gradient(index(job + 8 * SECOND))
    i = next_task(job, 0)
    while i < index(job + 8 * TASKS):
        sums = r.sums + 4 * i * p.M
        for m in range(0, p.M, LANES):
            store(sums + 4 * m, splat(0.0), 4, min(LANES, p.M - m))
        for row in range(i * ROWS, min(p.rows, i * ROWS + ROWS)):
            backward_row(p, r, row, sums)
        i = next_task(job, 0)
