"""Vector loads and stores of sixteen contiguous fp32 or bf16 (item size 4 or 2). Lanes are always fp32."""

from __future__ import annotations

from llvmlite import ir
from numba import types

from vlm_ssm.numba.kernels.jit import inline, intrinsic
from vlm_ssm.numba.kernels.scalars import pointer
from vlm_ssm.numba.kernels.simd import F32, I32, I64, LANES, VEC, VEC32, spread, vec

_VEC16 = ir.VectorType(ir.IntType(16), LANES)


def _widen(builder, half):
    wide = builder.shl(builder.zext(half, VEC32), ir.Constant(VEC32, [16] * LANES))
    return builder.bitcast(wide, VEC)


@intrinsic
def load_f32(typingctx, address):
    """Sixteen fp32."""

    def code(context, builder, sig, args):
        return builder.load(pointer(builder, args[0], VEC), align=4)

    return vec(types.int64), code


@intrinsic
def store_f32(typingctx, address, v):
    """Write sixteen fp32."""

    def code(context, builder, sig, args):
        builder.store(args[1], pointer(builder, args[0], VEC), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, vec), code


@intrinsic
def load_pairs(typingctx, address):
    """Thirty-two bf16 as sixteen words; `even` and `odd` extract them."""

    def code(context, builder, sig, args):
        return builder.bitcast(builder.load(pointer(builder, args[0], VEC32), align=2), VEC)

    return vec(types.int64), code


@intrinsic
def even(typingctx, pairs):
    """Numbers 0, 2, 4 … of `load_pairs`."""

    def code(context, builder, sig, args):
        low = builder.shl(builder.bitcast(args[0], VEC32), ir.Constant(VEC32, [16] * LANES))
        return builder.bitcast(low, VEC)

    return vec(vec), code


@intrinsic
def odd(typingctx, pairs):
    """Numbers 1, 3, 5 … of `load_pairs`."""

    def code(context, builder, sig, args):
        high = builder.and_(builder.bitcast(args[0], VEC32), ir.Constant(VEC32, [0xFFFF0000] * LANES))
        return builder.bitcast(high, VEC)

    return vec(vec), code


@intrinsic
def column(typingctx, address, item, stride, count):
    """`count` numbers `stride` bytes apart, `item` bytes each, 0 in the other lanes."""

    def code(context, builder, sig, args):
        address, item, stride, count = args
        result = builder.alloca(VEC)
        builder.store(ir.Constant(VEC, [0.0] * LANES), result)
        for lane in range(LANES):
            with builder.if_then(builder.icmp_signed("<", I64(lane), count)):
                at = builder.add(address, builder.mul(stride, I64(lane)))
                with builder.if_else(builder.icmp_signed("==", item, I64(4))) as (then, otherwise):
                    with then:
                        _put_lane(builder, result, lane, builder.load(pointer(builder, at, F32), align=4))
                    with otherwise:
                        half = builder.load(pointer(builder, at, ir.IntType(16)), align=2)
                        bits = builder.shl(builder.zext(half, I32), I32(16))
                        _put_lane(builder, result, lane, builder.bitcast(bits, F32))
        return builder.load(result)

    return vec(types.int64, types.int64, types.int64, types.int64), code


def _put_lane(builder, result, lane, value):
    builder.store(builder.insert_element(builder.load(result), value, I32(lane)), result)


@intrinsic
def load_bf16(typingctx, address):
    """Sixteen bf16, each of which becomes the upper half of an fp32."""

    def code(context, builder, sig, args):
        return _widen(builder, builder.load(pointer(builder, args[0], _VEC16), align=2))

    return vec(types.int64), code


def _narrow(builder, v):
    """fp32 -> bf16 bits: round to nearest, ties to even; NaN stays NaN."""

    def const(n):
        return ir.Constant(VEC32, [n] * LANES)

    bits = builder.bitcast(v, VEC32)
    odd = builder.and_(builder.lshr(bits, const(16)), const(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, const(0x7FFF))), const(16))
    rounded = builder.select(builder.fcmp_unordered("uno", v, v), const(0x7FC0), rounded)
    return builder.trunc(rounded, _VEC16)


@intrinsic
def store_bf16(typingctx, address, v):
    """Write sixteen lanes as bf16."""

    def code(context, builder, sig, args):
        builder.store(_narrow(builder, args[1]), pointer(builder, args[0], _VEC16), align=2)
        return context.get_dummy_value()

    return types.void(types.int64, vec), code


def _lanes(builder, count):
    """A mask of the first `count` lanes."""
    numbers = ir.Constant(VEC32, list(range(LANES)))
    return builder.icmp_signed("<", numbers, spread(builder, builder.trunc(count, I32), VEC32))


def _masked(builder, name, kind, arguments):
    """LLVM's masked load or store of vectors of this kind."""
    i1 = ir.VectorType(ir.IntType(1), LANES)
    pointer = kind.as_pointer()
    signature = {
        "load": ir.FunctionType(kind, [pointer, I32, i1, kind]),
        "store": ir.FunctionType(ir.VoidType(), [kind, pointer, I32, i1]),
    }[name]
    full = f"llvm.masked.{name}.v16{'f32' if kind is VEC else 'i16'}.p0"
    function = builder.module.globals.get(full) or ir.Function(builder.module, signature, full)
    return builder.call(function, arguments)


@intrinsic
def load_part(typingctx, address, item, count):
    """`load` of the first `count` lanes. The others are 0 and their memory is not read."""

    def code(context, builder, sig, args):
        address, item, count = args
        mask, result = _lanes(builder, count), []
        with builder.if_else(builder.icmp_signed("==", item, I64(4))) as (then, otherwise):
            for branch, kind in ((then, VEC), (otherwise, _VEC16)):
                with branch:
                    zero = ir.Constant(kind, [0] * LANES)
                    v = _masked(builder, "load", kind, [pointer(builder, address, kind), I32(2), mask, zero])
                    result.append((v if kind is VEC else _widen(builder, v), builder.block))
        phi = builder.phi(VEC)
        for value, block in result:
            phi.add_incoming(value, block)
        return phi

    return vec(types.int64, types.int64, types.int64), code


@intrinsic
def store_part(typingctx, address, v, item, count):
    """`store` of the first `count` lanes only."""

    def code(context, builder, sig, args):
        address, v, item, count = args
        mask = _lanes(builder, count)
        with builder.if_else(builder.icmp_signed("==", item, I64(4))) as (then, otherwise):
            for branch, kind, value in ((then, VEC, v), (otherwise, _VEC16, None)):
                with branch:
                    value = _narrow(builder, v) if value is None else value
                    _masked(builder, "store", kind, [value, pointer(builder, address, kind), I32(2), mask])
        return context.get_dummy_value()

    return types.void(types.int64, vec, types.int64, types.int64), code


@inline
def load(address, item, count):
    """The first `count` of sixteen numbers of `item` bytes each (4: fp32, 2: bf16), 0 in the other lanes."""
    if count == LANES:
        if item == 4:
            return load_f32(address)
        return load_bf16(address)
    return load_part(address, item, count)


@inline
def store(address, v, item, count):
    """Write the first `count` lanes as numbers of `item` bytes each."""
    if count == LANES:
        if item == 4:
            store_f32(address, v)
        else:
            store_bf16(address, v)
    else:
        store_part(address, v, item, count)
