"""Access to a job inside a kernel: arguments, the next task, the thread's scratch memory, the barrier."""

from __future__ import annotations

from typing import Any, get_type_hints

from llvmlite import ir
from numba import typeof, types

from vlm_ssm.numba.kernels.jit import BARRIER, COUNTERS, SCRATCH, SLOT, STRIDE, inline, intrinsic
from vlm_ssm.numba.kernels.scalars import index, pointer
from vlm_ssm.numba.kernels.simd import I64


def _example(kind: Any) -> Any:
    """A named tuple of this kind, all zeros."""
    fields = get_type_hints(kind)
    return kind(*(0 if fields[name] is int else _example(fields[name]) for name in kind._fields))


def reader(kind: Any) -> Any:
    """A function for kernels that loads a named tuple of int64 and of such tuples from an address.

    In memory the tuple is consecutive int64, as `jit.packed` writes them.
    """
    example = typeof(_example(kind))

    @intrinsic
    def read(typingctx, address):
        def code(context, builder, sig, args):
            return builder.load(pointer(builder, args[0], context.get_value_type(example)), align=8)

        return example(types.int64), code

    return read


@intrinsic
def take(typingctx, address):
    """Add one to the int64 at `address` atomically; returns its value before."""

    def code(context, builder, sig, args):
        return builder.atomic_rmw("add", pointer(builder, args[0], I64), I64(1), "seq_cst")

    return types.int64(types.int64), code


@intrinsic
def _call(typingctx, function):
    """Call a C function without arguments by its address."""

    def code(context, builder, sig, args):
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), code


@inline
def thread_scratch(job):
    """Address of this thread's scratch memory."""
    return index(job + 8 * SCRATCH) + take(job + 8 * SLOT) * index(job + 8 * STRIDE)


@inline
def next_task(job, phase):
    """Number of the next task in this phase; there is none if it is the number of tasks or more."""
    return take(job + 8 * COUNTERS + 64 * phase)


@inline
def wait(job):
    """Barrier: returns when all threads have called it."""
    barrier = index(job + 8 * BARRIER)
    if barrier != 0:
        _call(barrier)
