"""Product of a matrix with one or a few vectors on all threads, bound by memory bandwidth.

MKL's fp32 product with one vector uses one thread only. A row of the result does not depend on the others.
"""

from __future__ import annotations

from typing import NamedTuple

from vlm_ssm.numba.kernels.dot_block import PAIR, one, several
from vlm_ssm.numba.kernels.jit import FIRST, Kernel, inline, inner
from vlm_ssm.numba.kernels.load_store import load, load_f32, store, store_f32
from vlm_ssm.numba.kernels.scalars import index
from vlm_ssm.numba.kernels.simd import LANES, alternate
from vlm_ssm.numba.kernels.work_items import next_task, reader, thread_scratch

ROWS = 32  # rows of a matrix a task


class Vectors(NamedTuple):
    """`batch` fp32 vectors `stride` bytes apart."""

    at: int
    stride: int
    batch: int


@inline
def product(weight, item, length, x, y, first, rows):
    """Rows `first` to `first + rows` of y = W x for each of the `Vectors` x, in the order of `in_pairs`."""
    at, to = weight + item * first * length, y.at + 4 * first
    if x.batch == 1:
        one(at, item, length, x.at, to, rows)
    else:
        several(at, item, length, x.at, x.stride, to, y.stride, rows, x.batch)


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
    """y (batch, rows) = x Wᵀ, W (rows, length); x (batch, length) and y are fp32 and contiguous."""

    weight: int
    item: int
    rows: int
    length: int
    batch: int
    x: int
    y: int


read_product = reader(Product)


@Kernel
def matvec(job):
    p = read_product(index(job + 8 * FIRST))
    x = thread_scratch(job)
    for b in range(p.batch):
        in_pairs(p.x + 4 * b * p.length, p.item, x + 4 * b * p.length, p.length)
    vectors, y = Vectors(x, 4 * p.length, p.batch), Vectors(p.y, 4 * p.rows, p.batch)
    i = next_task(job, 0)
    while i * ROWS < p.rows:
        product(p.weight, p.item, p.length, vectors, y, i * ROWS, min(ROWS, p.rows - i * ROWS))
        i = next_task(job, 0)
