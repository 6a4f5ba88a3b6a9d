"""Dot products of a block of matrix rows with a block of vectors, whose sums stay in registers.

Each sum is one chain of fused multiply-adds along the row, so a result does not depend on the block that computes it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from vlm_ssm.numba.kernels.jit import LINE, inner, intrinsic
from vlm_ssm.numba.kernels.load_store import _VEC16, _lanes, _masked, _widen
from vlm_ssm.numba.kernels.scalars import pointer, prefetch_l2, prefetch_line
from vlm_ssm.numba.kernels.simd import F32, I32, I64, LANES, VEC, VEC32, _fma

PAIR = 2 * LANES
Grid = list[list[Any]]  # of LLVM values: matrix rows × vectors


def _clamped(builder, start, stride, count, last):
    """Addresses of `count` rows `stride` bytes apart; those after row `last` are that row again."""
    addresses = []
    for i in range(count):
        row = builder.select(builder.icmp_signed("<", I64(i), last), I64(i), last)
        addresses.append(builder.add(start, builder.mul(row, stride)))
    return addresses


def _pair(builder, address, bf16):
    """Thirty-two numbers of a matrix as two vectors: of bf16 the even and the odd ones, as `in_pairs` has x."""
    if not bf16:
        second = builder.add(address, I64(4 * LANES))
        return [builder.load(pointer(builder, at, VEC), align=4) for at in (address, second)]
    words = builder.load(pointer(builder, address, VEC32), align=2)
    low = builder.shl(words, ir.Constant(VEC32, [16] * LANES))
    high = builder.and_(words, ir.Constant(VEC32, [0xFFFF0000] * LANES))
    return [builder.bitcast(part, VEC) for part in (low, high)]


def _part(builder, address, mask, bf16):
    """The numbers of a matrix or a vector in the lanes of `mask`, 0 in the others."""
    kind = _VEC16 if bf16 else VEC
    zero = ir.Constant(kind, [0] * LANES)
    v = _masked(builder, "load", kind, [pointer(builder, address, kind), I32(2), mask, zero])
    return _widen(builder, v) if bf16 else v


def _loop(builder, begin, end, step, sums: Grid, body) -> tuple[Any, Grid]:
    """`sums = body(i, sums)` for i from `begin` to `end` -> the i after the last, and the sums."""
    before, head = builder.block, builder.append_basic_block("head")
    inside, after = builder.append_basic_block("body"), builder.append_basic_block("after")
    builder.branch(head)
    builder.position_at_end(head)
    i, kept = builder.phi(I64), [[builder.phi(VEC) for _ in row] for row in sums]
    builder.cbranch(builder.icmp_signed("<", i, end), inside, after)
    builder.position_at_end(inside)
    new = body(i, kept)
    flat = [(i, begin, builder.add(i, I64(step)))]
    for phis, old, now in zip(kept, sums, new, strict=True):
        flat += zip(phis, old, now, strict=True)
    for phi, old, now in flat:
        phi.add_incoming(old, before)
        phi.add_incoming(now, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return i, kept


def _times(builder, rows, vectors, sums: Grid) -> Grid:
    """sums[r][b] + rows[r]·vectors[b]."""
    return [
        [_fma(builder, row, vector, total) for vector, total in zip(vectors, totals, strict=True)]
        for row, totals in zip(rows, sums, strict=True)
    ]


def _totals(builder, vectors):
    """The sums over lanes of up to sixteen vectors as one vector, each added up in the order of `simd.total`."""
    vectors, width = (vectors * LANES)[:LANES], LANES
    while width > 1:
        width //= 2
        first = [g + i for g in range(0, LANES, 2 * width) for i in range(width)]
        low, high = ([*pick, *(LANES + i for i in pick)] for pick in (first, [i + width for i in first]))
        vectors = [
            builder.fadd(*(builder.shuffle_vector(a, b, ir.Constant(VEC32, pick)) for pick in (low, high)))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]


def _block(rows: int, count: int, bf16: bool) -> Any:
    """The function of a block of `rows` rows of a matrix and `count` ≤ 16 / `rows` vectors."""

    @intrinsic
    def block(typingctx, weight, length, x, stride_x, y, stride_y, last_row, last_x, ahead):
        """y = W x. Rows after `last_row` and vectors after `last_x` repeat these.

        What lies `ahead` bytes after these rows is fetched into the second-level cache.
        """

        def code(context, builder, sig, args):
            weight, length, x, stride_x, y, stride_y, last_row, last_x, ahead = args
            item = I64(2 if bf16 else 4)
            ws = _clamped(builder, weight, builder.mul(length, item), rows, last_row)
            xs = _clamped(builder, x, stride_x, count, last_x)

            def whole(i, sums):
                at = [builder.add(w, builder.mul(i, item)) for w in ws]
                for address in at if rows > 1 else ():
                    for line in range(0, PAIR * (2 if bf16 else 4), LINE):
                        prefetch_line(builder, builder.add(address, builder.add(ahead, I64(line))), 2)
                pairs = [_pair(builder, address, bf16) for address in at]
                for half in (0, 1):
                    offset = builder.add(builder.mul(i, I64(4)), I64(4 * LANES * half))
                    addresses = [builder.add(v, offset) for v in xs]
                    vectors = [builder.load(pointer(builder, a, VEC), align=4) for a in addresses]
                    sums = _times(builder, [pair[half] for pair in pairs], vectors, sums)
                return sums

            def rest(i, sums):
                mask = _lanes(builder, builder.sub(length, i))
                parts = [_part(builder, builder.add(w, builder.mul(i, item)), mask, bf16) for w in ws]
                offset = builder.mul(i, I64(4))
                vectors = [_part(builder, builder.add(v, offset), mask, False) for v in xs]
                return _times(builder, parts, vectors, sums)

            sums = [[ir.Constant(VEC, [0.0] * LANES)] * count for _ in range(rows)]
            paired = builder.and_(length, I64(-PAIR))
            i, sums = _loop(builder, I64(0), paired, PAIR, sums, whole)
            _, sums = _loop(builder, i, length, LANES, sums, rest)
            to = _clamped(builder, y, stride_y, count, last_x)
            _write(builder, sums, [_clamped(builder, at, I64(4), rows, last_row) for at in to])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), code

    return block


def _write(builder, sums: Grid, to: Grid) -> None:
    """Write the total of sums[r][b] to the address to[b][r]."""
    vectors = [row[b] for b in range(len(to)) for row in sums]
    totals, addresses = _totals(builder, vectors), [at for row in to for at in row]
    for lane, at in enumerate(addresses):
        value = builder.extract_element(totals, I32(lane))
        builder.store(value, pointer(builder, at, F32), align=4)


BLOCK = 4
"""Rows of a block, and most vectors: sixteen sums and the operands fit the registers of AVX-512."""
_one_f32, _one_bf16 = _block(1, 1, False), _block(1, 1, True)
_two_f32, _two_bf16 = _block(BLOCK, 2, False), _block(BLOCK, 2, True)
_four_f32, _four_bf16 = _block(BLOCK, BLOCK, False), _block(BLOCK, BLOCK, True)


@inner
def one(weight, item, length, x, y, rows):
    """y (rows) = W x, row by row: a hardware prefetcher follows a single stream best."""
    for row in range(rows):
        at = weight + item * length * row
        if item == 4:
            _one_f32(at, length, x, 0, y + 4 * row, 0, 0, 0, 0)
        else:
            _one_bf16(at, length, x, 0, y + 4 * row, 0, 0, 0, 0)


@inner
def several(weight, item, length, x, stride_x, y, stride_y, rows, batch):
    """y (batch, rows) = x Wᵀ by blocks; a block of rows is read from memory once, then from the cache.

    The first pass over a block fetches the next one: hardware prefetchers follow four rows at half the speed of one.
    """
    size = item * length * BLOCK
    for i in range(0, min(size, item * length * rows), LINE):
        prefetch_l2(weight + i)
    for row in range(0, rows, BLOCK):
        at, last = weight + row * item * length, rows - 1 - row
        for b in range(0, batch, BLOCK):
            left = batch - b
            vectors, to = x + stride_x * b, y + stride_y * b + 4 * row
            ahead = size if b == 0 and last >= BLOCK else 0
            if left > 2:
                if item == 4:
                    _four_f32(at, length, vectors, stride_x, to, stride_y, last, left - 1, ahead)
                else:
                    _four_bf16(at, length, vectors, stride_x, to, stride_y, last, left - 1, ahead)
            elif item == 4:
                _two_f32(at, length, vectors, stride_x, to, stride_y, last, left - 1, ahead)
            else:
                _two_bf16(at, length, vectors, stride_x, to, stride_y, last, left - 1, ahead)
