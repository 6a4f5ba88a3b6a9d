"""A vector type of sixteen fp32 for numba kernels, which LLVM keeps in registers.

numba has no vector type and relies on LLVM's loop vectoriser, which fails on loops like the scan's. `Vec` is LLVM's
`<16 x float>`, lowered to one AVX-512 register, two of AVX2 or four of NEON.
"""

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.extending import models, overload, register_model

from vlm_ssm.numba.kernels.jit import inline, intrinsic

LANES = 16
LOG2E = 1.4426950408889634
F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VEC, VEC32 = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)


class VecType(types.Type):
    """The numba type of sixteen fp32 lanes."""

    def __init__(self) -> None:
        super().__init__(name="Vec16f32")


vec = VecType()


@register_model(VecType)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, fe_type) -> None:
        super().__init__(manager, fe_type, VEC)


def _is_vec(*operands) -> bool:
    return all(isinstance(t, VecType) for t in operands)


def spread(builder, value, to):
    one = builder.insert_element(ir.Constant(to, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(one, ir.Constant(to, ir.Undefined), ir.Constant(VEC32, [0] * LANES))


def _fma(builder, a, b, c):
    name = "llvm.fma.v16f32"
    function = builder.module.globals.get(name) or ir.Function(
        builder.module, ir.FunctionType(VEC, [VEC] * 3), name
    )
    return builder.call(function, [a, b, c])


def _constant(number: float):
    return ir.Constant(VEC, [number] * LANES)


def _lane_operation(name):
    """`a ∘ b` lane by lane."""

    @intrinsic
    def lane(typingctx, a, b):
        if not _is_vec(a, b):
            return None

        def code(context, builder, sig, args):
            return getattr(builder, name)(*args, flags=("contract", "nsz"))

        return vec(vec, vec), code

    return lane


def _define(op, name) -> None:
    lane = _lane_operation(name)

    @overload(op)
    def _(a, b):
        if _is_vec(a, b):
            return lambda a, b: lane(a, b)
        return None


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
_define(operator.truediv, "fdiv")


@intrinsic
def fma(typingctx, a, b, c):
    """a·b + c, rounded once."""
    if not _is_vec(a, b, c):
        return None
    return vec(vec, vec, vec), lambda context, builder, sig, args: _fma(builder, *args)


@intrinsic
def splat(typingctx, x):
    """One number in all lanes."""

    def code(context, builder, sig, args):
        return spread(builder, context.cast(builder, args[0], sig.args[0], types.float32), VEC)

    return vec(x), code


@intrinsic
def exp2(typingctx, x):
    """2^x: round to an integer, a polynomial of degree 5 on [-½, ½], the integer added to the exponent.

    Minimax under p(0) = 1, relative error 9.1e-8 for |x| ≤ 125; larger |x| is clamped to 125 (2^-125 is 2e-38).
    NaN gives NaN.
    """
    coefficients = (1.32647e-3, 9.67151e-3, 5.550734e-2, 2.4022242e-1, 6.9314698e-1, 1.0)

    def code(context, builder, sig, args):
        (v,) = args
        low, high = _constant(-125.0), _constant(125.0)  # compared so that LLVM emits one max and one min
        v = builder.select(builder.fcmp_ordered("ogt", low, v), low, v)
        v = builder.select(builder.fcmp_ordered("olt", high, v), high, v)
        magic = _constant(12582912.0)  # 1.5·2^23: the sum's last bits are the rounded integer
        shifted = builder.fadd(v, magic)
        f = builder.fsub(v, builder.fsub(shifted, magic))
        p = _constant(coefficients[0])
        for c in coefficients[1:]:
            p = _fma(builder, p, f, _constant(c))
        exponent = builder.shl(builder.bitcast(shifted, VEC32), ir.Constant(VEC32, [23] * LANES))
        return builder.bitcast(builder.add(builder.bitcast(p, VEC32), exponent), VEC)

    return vec(vec), code


@intrinsic
def where_above(typingctx, x, limit, yes, no):
    """Per lane: x > limit ? yes : no; NaN is not above."""

    def code(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered("ogt", args[0], args[1]), args[2], args[3])

    return vec(vec, vec, vec, vec), code


@intrinsic
def alternate(typingctx, first, second, parity):
    """Every second of the thirty-two lanes of two vectors, from lane `parity`, a compile-time constant 0 or 1."""
    if not isinstance(parity, types.IntegerLiteral):
        return None
    pick = ir.Constant(VEC32, list(range(parity.literal_value, 2 * LANES, 2)))

    def code(context, builder, sig, args):
        return builder.shuffle_vector(args[0], args[1], pick)

    return vec(vec, vec, parity), code


@intrinsic
def total(typingctx, x):
    """Sum over lanes, pairwise."""

    def code(context, builder, sig, args):
        (v,) = args
        width = LANES
        while width > 1:
            width //= 2
            pick = [i + width if i < width else 0 for i in range(LANES)]
            v = builder.fadd(v, builder.shuffle_vector(v, v, ir.Constant(VEC32, pick)))
        return builder.extract_element(v, I32(0))

    return types.float32(vec), code


@inline
def sigmoid(x):
    """1 / (1 + e^-x)."""
    one = splat(1.0)
    return one / (one + exp2(x * splat(-LOG2E)))


@inline
def softplus(x):
    """log(1 + e^x) = max(x, 0) + log1p(w), w = e^-|x|; log1p(w) = 2 atanh(w / (2 + w)), relative error 5e-9."""
    zero = splat(0.0)
    w = exp2(where_above(x, zero, x * splat(-LOG2E), x * splat(LOG2E)))
    s = w / (w + splat(2.0))
    q = s * s
    p = fma(splat(0.28012152), q, splat(0.28001775))
    p = fma(fma(fma(p, q, splat(0.40021529)), q, splat(0.66666416)), q, splat(2.0))
    return fma(p, s, where_above(zero, x, zero, x))
