"""Scalar loads and stores by byte address. Addresses are ints, so one compiled kernel serves every stride."""

from __future__ import annotations

from llvmlite import ir
from numba import types

from vlm_ssm.numba.kernels.jit import intrinsic
from vlm_ssm.numba.kernels.simd import F32, I32, I64, VEC, spread, vec


def pointer(builder, address, to):
    return builder.inttoptr(address, to.as_pointer())


@intrinsic
def every(typingctx, address):
    """The fp32 number at `address` in all lanes."""

    def code(context, builder, sig, args):
        return spread(builder, builder.load(pointer(builder, args[0], F32), align=4), VEC)

    return vec(types.int64), code


@intrinsic
def number(typingctx, address):
    """The fp32 number at `address`."""

    def code(context, builder, sig, args):
        return builder.load(pointer(builder, args[0], F32), align=4)

    return types.float32(types.int64), code


@intrinsic
def put_number(typingctx, address, x):
    """Write one fp32 number."""

    def code(context, builder, sig, args):
        value = context.cast(builder, args[1], sig.args[1], types.float32)
        builder.store(value, pointer(builder, args[0], F32), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, x), code


@intrinsic
def byte(typingctx, address):
    """The unsigned byte at `address`."""

    def code(context, builder, sig, args):
        return builder.zext(builder.load(pointer(builder, args[0], ir.IntType(8)), align=1), I64)

    return types.int64(types.int64), code


@intrinsic
def index(typingctx, address):
    """The int64 at `address`."""

    def code(context, builder, sig, args):
        return builder.load(pointer(builder, args[0], I64), align=8)

    return types.int64(types.int64), code


@intrinsic
def put_index(typingctx, address, i):
    """Write one int64."""

    def code(context, builder, sig, args):
        builder.store(args[1], pointer(builder, args[0], I64), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


def prefetch_line(builder, address, level):
    """Fetch the cache line at `address`, which need not be valid, into the first or second level of cache."""
    byte, name = ir.IntType(8).as_pointer(), "llvm.prefetch.p0"
    function = builder.module.globals.get(name) or ir.Function(
        builder.module, ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32]), name
    )
    builder.call(function, [builder.inttoptr(address, byte), I32(0), I32(4 - level), I32(1)])


def _prefetch(level):
    @intrinsic
    def line(typingctx, address):
        def code(context, builder, sig, args):
            prefetch_line(builder, args[0], level)
            return context.get_dummy_value()

        return types.void(types.int64), code

    return line


prefetch = _prefetch(1)
"""Prefetch the cache line at an address, which need not be valid."""
prefetch_l2 = _prefetch(2)
"""The same, into the second level of cache only: it has room for more requests."""
