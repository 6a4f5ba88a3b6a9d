"""A fused Mamba layer as a registered operation: autograd, checkpointing and torch.compile see one operation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlm_ssm.fused.backward import OutputGradients, backward
from vlm_ssm.fused.forward import forward
from vlm_ssm.fused.inputs import (
    DIFFERENTIABLE,
    Kept,
    MixerInputs,
    MixerOutputs,
    computes_again,
    kept_shapes,
    norm_kernels,
)
from vlm_ssm.registration.inputs import schema
from vlm_ssm.registration.layouts import like
from vlm_ssm.registration.library import Operation
from vlm_ssm.registration.torch_modes import grad_needed

OUTPUTS, KEPT = len(MixerOutputs._fields), len(Kept._fields)
FORWARD = f"({schema(MixerInputs)}) -> ({', '.join(['Tensor'] * (OUTPUTS + KEPT))})"
BACKWARD = (
    f"({schema(OutputGradients, 'grad_')}, {schema(MixerInputs)}, {schema(Kept, 'kept_')}, bool[] needs)"
    f" -> ({', '.join(['Tensor'] * DIFFERENTIABLE)})"
)


def _forward(*fields: Any) -> tuple[Tensor, ...]:
    outputs, kept = forward(MixerInputs(*fields), True)
    return *outputs, *kept


def _split(arguments: tuple[Any, ...]) -> tuple[OutputGradients, MixerInputs, Kept, list[bool]]:
    *rest, needs = arguments
    grads, fields, kept = rest[:OUTPUTS], rest[OUTPUTS:-KEPT], rest[-KEPT:]
    return OutputGradients(*grads), MixerInputs(*fields), Kept(*kept), needs


def _gradients(*arguments: Any) -> list[Tensor | None]:
    grads, inputs, kept, needs = _split(arguments)
    return backward(grads, inputs, kept, needs)


def _backward(*arguments: Any) -> list[Tensor]:
    """Empty for what isn't needed."""
    _, inputs, _, _ = _split(arguments)
    return [inputs.x.new_empty(0) if grad is None else grad for grad in _gradients(*arguments)]


def _fake_forward(*fields: Any) -> tuple[Tensor, ...]:
    inputs = MixerInputs(*fields)
    x, (E, S), taps, new = inputs.x, inputs.A_log.shape, inputs.conv.shape[2], inputs.x.new_empty
    N, T, dtype, fp32 = *x.shape[:2], inputs.dtype, torch.float32
    xz = new(N, T, 2 * E, dtype=dtype)
    acc, starts = kept_shapes(inputs, xz)
    sizes = [(1, N, T, E), (N, T, inputs.x_proj.shape[0]), (N, T, E), (N, T, 1, E)]
    if again := computes_again(inputs.backend):
        sizes = [(0,)] * 4
    u, projected, dt, gated = (new(size, dtype=fp32 if again else dtype) for size in sizes)
    outputs = MixerOutputs(
        y=new(N, T, len(inputs.out_proj), dtype=dtype),
        summed=new(0) if inputs.norm is None or inputs.out is None else new(x.shape),
        conv_state=new(N, taps - 1, E, dtype=dtype),
        ssm_state=new(N, E, S, dtype=fp32),
    )
    kept = Kept(
        scale=new(0) if inputs.norm is None else new(norm_kernels(inputs.backend, x).scale(x), dtype=fp32),
        xz=xz,
        acc=new(acc or (0,), dtype=fp32),
        starts=new(starts, dtype=fp32),
        u=u,
        projected=projected,
        dt=dt,
        gated=gated,
    )
    return *outputs, *kept


def _fake_backward(*arguments: Any) -> list[Tensor]:
    _, inputs, _, needs = _split(arguments)
    if inputs.out is not None:
        inputs = inputs._replace(out=inputs.x.to(inputs.out.dtype))
    given: list[Any] = list(inputs[:DIFFERENTIABLE])
    return [
        inputs.x.new_empty(0) if t is None or not need else like(t)
        for t, need in zip(given, needs, strict=True)
    ]


def _setup(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
    given, kept = MixerInputs(*inputs), outputs[OUTPUTS:]
    if given.out is not None:
        given = given._replace(x=MixerOutputs(*outputs[:OUTPUTS]).summed, out=given.out.new_empty(0))
    *tensors, ctx.eps, ctx.dtype, ctx.backend = given
    ctx.save_for_backward(*tensors, *kept)
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, saved: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    needs = list(ctx.needs_input_grad[:DIFFERENTIABLE])
    fields = [*saved[:-KEPT], ctx.eps, ctx.dtype, ctx.backend]
    found = _backward_op(*grads[:OUTPUTS], *fields, *saved[-KEPT:], needs)
    present = [grad if need else None for grad, need in zip(found, needs, strict=True)]
    return *present, *[None] * (len(MixerInputs._fields) - DIFFERENTIABLE)


_backward_op = Operation("mixer_backward", BACKWARD, _backward, _fake_backward, _gradients)
_op = Operation("mixer", FORWARD, _forward, _fake_forward)
_op.differentiate(_setup, _autograd)


def mixer(inputs: MixerInputs) -> MixerOutputs:
    """The layer. Calls that need no gradient bypass the operation and keep nothing for a backward."""
    differentiable: Any = inputs[:DIFFERENTIABLE]
    if grad_needed(*differentiable):
        return MixerOutputs(*_op(*inputs)[:OUTPUTS])
    return forward(inputs, False)[0]
