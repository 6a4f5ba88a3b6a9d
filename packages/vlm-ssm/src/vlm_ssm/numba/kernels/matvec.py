"""Matrix-vector product on all threads, bound by memory bandwidth: MKL's fp32 product uses one thread only."""

from __future__ import annotations

from typing import NamedTuple

from vlm_ssm.numba.kernels.jit import FIRST, Kernel, inline, inner
from vlm_ssm.numba.kernels.load_store import even, load, load_f32, load_pairs, odd, store, store_f32
from vlm_ssm.numba.kernels.scalars import index, put_number
from vlm_ssm.numba.kernels.simd import LANES, alternate, fma, splat, total
from vlm_ssm.numba.kernels.work_items import next_task, reader, thread_scratch

ROWS = 32  # rows of a matrix a task
PAIR = 2 * LANES


@inner
def product_f32(weight, length, x, y, rows):
    """y = W x, row by row. Hardware prefetchers follow a single stream best, and run further ahead the more loads
    with a long stride a loop has.
    """
    wide = length // (8 * LANES) * 8 * LANES
    for row in range(rows):
        w = weight + 4 * length * row
        a = b = c = d = splat(0.0)
        for i in range(0, 4 * wide, 512):
            a = fma(load_f32(w + i), load_f32(x + i), a)
            b = fma(load_f32(w + i + 64), load_f32(x + i + 64), b)
            c = fma(load_f32(w + i + 128), load_f32(x + i + 128), c)
            d = fma(load_f32(w + i + 192), load_f32(x + i + 192), d)
            a = fma(load_f32(w + i + 256), load_f32(x + i + 256), a)
            b = fma(load_f32(w + i + 320), load_f32(x + i + 320), b)
            c = fma(load_f32(w + i + 384), load_f32(x + i + 384), c)
            d = fma(load_f32(w + i + 448), load_f32(x + i + 448), d)
        for i in range(wide, length, LANES):
            count = min(LANES, length - i)
            a = fma(load(w + 4 * i, 4, count), load(x + 4 * i, 4, count), a)
        put_number(y + 4 * row, total((a + b) + (c + d)))


@inline
def pair(w, x, a, b):
    """Add products of 32 bf16 of W and x in the order of `in_pairs`: a shift and a mask split a word of two bf16."""
    p = load_pairs(w)
    return fma(even(p), load_f32(x), a), fma(odd(p), load_f32(x + 64), b)


@inner
def product_bf16(weight, length, x, y, rows):
    """As `product_f32`, for a bf16 matrix."""
    wide, paired = length // (8 * PAIR) * 8 * PAIR, length // PAIR * PAIR
    for row in range(rows):
        w = weight + 2 * length * row
        a = b = c = d = splat(0.0)
        for i in range(0, 2 * wide, 512):
            at = x + 2 * i
            a, b = pair(w + i, at, a, b)
            c, d = pair(w + i + 64, at + 128, c, d)
            a, b = pair(w + i + 128, at + 256, a, b)
            c, d = pair(w + i + 192, at + 384, c, d)
            a, b = pair(w + i + 256, at + 512, a, b)
            c, d = pair(w + i + 320, at + 640, c, d)
            a, b = pair(w + i + 384, at + 768, a, b)
            c, d = pair(w + i + 448, at + 896, c, d)
        for i in range(wide, paired, PAIR):
            a, b = pair(w + 2 * i, x + 4 * i, a, b)
        for i in range(paired, length, LANES):
            count = min(LANES, length - i)
            a = fma(load(w + 2 * i, 2, count), load(x + 4 * i, 4, count), a)
        put_number(y + 4 * row, total((a + b) + (c + d)))


@inline
def product(weight, item, length, x, y, first, rows):
    """Rows `first` to `first + rows` of y = W x; x and y are fp32, x in the order of `in_pairs`."""
    if item == 4:
        product_f32(weight + 4 * first * length, length, x, y + 4 * first, rows)
    else:
        product_bf16(weight + 2 * first * length, length, x, y + 4 * first, rows)


@inner
def in_pairs(x, item, to, length):
    """Copy a vector. For a bf16 matrix (`item` 2) each 32 numbers are reordered, even positions before odd ones."""
    paired = length // PAIR * PAIR if item == 2 else 0
    for i in range(0, paired, PAIR):
        first, second = load_f32(x + 4 * i), load_f32(x + 4 * i + 64)
        store_f32(to + 4 * i, alternate(first, second, 0))
        store_f32(to + 4 * i + 64, alternate(first, second, 1))
    for i in range(paired, length, LANES):
        count = min(LANES, length - i)
        store(to + 4 * i, load(x + 4 * i, 4, count), 4, count)


class Product(NamedTuple):
    """y (rows) = W (rows, length) x; x and y are fp32."""

    weight: int
    item: int
    rows: int
    length: int
    x: int
    y: int


read_product = reader(Product)


@Kernel
def matvec(job):
    p = read_product(index(job + 8 * FIRST))
    x = thread_scratch(job)
    in_pairs(p.x, p.item, x, p.length)
    i = next_task(job, 0)
    while i * ROWS < p.rows:
        product(p.weight, p.item, p.length, x, p.y, i * ROWS, min(ROWS, p.rows - i * ROWS))
        i = next_task(job, 0)
