"""Autograd registration of scan, convolution and norm, and the functions that call them, for every kernel library.

`op` is the custom op, `run` the same function unregistered, for calls that need no gradient, `backward` the custom op
of the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vlm_ssm.registration.inputs import ConvInputs, ScanInputs, schema
from vlm_ssm.registration.layouts import NATIVE, dense, like, native
from vlm_ssm.registration.torch_modes import grad_needed
from vlm_ssm.segments import SegmentBoundaries

FORWARD = f"({schema(ScanInputs)}) -> (Tensor, Tensor, Tensor, Tensor)"
BACKWARD = (
    f"(Tensor grad_out, Tensor? grad_last, {schema(ScanInputs)}, Tensor acc, Tensor starts)"
    f" -> ({', '.join(['Tensor'] * 9)})"
)
CONV_FORWARD = f"({schema(ConvInputs)}) -> Tensor"
CONV_BACKWARD = f"(Tensor grad, {schema(ConvInputs)}) -> (Tensor, Tensor, Tensor, Tensor)"
"""Schemas of the custom ops of scan and convolution, and of their gradients."""


def like_inputs(grad_out: Tensor, grad_last: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    """Fake outputs of a scan's gradient, for `register_fake`."""
    u, dt, A, B, C, _, _, z, *_ = arguments
    per_channel = A.new_empty(A.shape[:2])
    grad_z = u.new_empty(0) if z is None else like(z)
    matrices = (like(A), like(B), like(C))
    vectors = (per_channel, torch.empty_like(per_channel))
    return like(u), like(dt), *matrices, *vectors, grad_z, A.new_empty(*u.shape[:2], *A.shape[1:])


def scan_with(
    op: Any,
    run: Callable[..., Any],
    backward: Any,
    matrix: Callable[[Tensor], Tensor],
    rows: Callable[[Tensor], Tensor] = native,
) -> Callable[[ScanInputs], tuple[Tensor, Tensor]]:
    """A backend's `scan`; `matrix` converts B and C, `rows` u, dt and z, to the kernels' dtypes and layouts.

    `op` takes the fields of `ScanInputs` and returns y, the last state, and two tensors for the backward. `run` takes
    the tuple, and whether to compute these two.
    """

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.softplus, ctx.keep_directions = inputs
        ctx.save_for_backward(*tensors, output[2], output[3])
        ctx.out_shape = output[0].shape
        # otherwise torch fills two large tensors with zeros
        ctx.set_materialize_grads(False)

    def autograd(ctx: Any, grad_out: Tensor | None, grad_last: Tensor | None, *_: Any) -> tuple[Any, ...]:
        *tensors, acc, starts = ctx.saved_tensors
        inputs = ScanInputs._make([*tensors, ctx.softplus, ctx.keep_directions])
        if grad_out is None:  # the loss depends on the last state only
            grad_out = inputs.u.new_zeros(ctx.out_shape)
        grads = backward(grad_out, grad_last, *inputs, acc, starts)
        present = [None if t is None else grad for t, grad in zip(inputs[:9], grads, strict=True)]
        return *present, None, None, None, None

    def scan(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
        """As `ops.scan`."""
        u, dt, A, B, C, D, bias, z, h0, reset, _, _, _ = inputs
        u, dt, B, C = rows(u), rows(dt), matrix(B), matrix(C)
        A, z = dense(A), None if z is None else rows(z)
        D, bias, h0 = (None if t is None else dense(t) for t in (D, bias, h0))
        reset = None if reset is None else reset.contiguous()
        ready = inputs._replace(u=u, dt=dt, A=A, B=B, C=C, D=D, bias=bias, z=z, h0=h0, reset=reset)
        y, last, _, _ = op(*ready) if grad_needed(*ready[:9]) else run(ready, False)
        return y.to(inputs.u.dtype), last

    op.register_autograd(autograd, setup_context=setup)
    return scan


def conv_with(
    op: Any, run: Callable[..., Any], backward: Any, rows: Callable[[Tensor], Tensor] = native
) -> Callable[..., Tensor]:
    """A backend's `conv`; `op` and `run` take the fields of `ConvInputs`."""

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def autograd(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        inputs = ConvInputs(*ctx.saved_tensors)
        grads = backward(grad, *inputs)
        present = [None if t is None else grad for t, grad in zip(inputs[:4], grads, strict=True)]
        return *present, None, None, None, None

    def conv(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        state: Tensor | None,
        boundaries: SegmentBoundaries | None,
        scan_order: Tensor | None,
    ) -> Tensor:
        """As `ops.conv`."""
        dtype, x = x.dtype, rows(x)
        state = None if state is None else state.to(x.dtype).contiguous()
        flags = (None, None, None) if boundaries is None else (t.contiguous() for t in boundaries)
        by_tap = dense(weight.transpose(1, 2))
        bias = None if bias is None else dense(bias)
        chosen = op if grad_needed(x, weight, bias, state) else run
        return chosen(x, by_tap, bias, state, *flags, scan_order).to(dtype)

    op.register_autograd(autograd, setup_context=setup)
    return conv


def norm_with(op: Any, run: Callable[..., Any], backward: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    """`ops.add_rms_norm`; `op` and `run` return residual + out (empty without out), y, and the scale of each row."""

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        residual, out, weight, _, _ = inputs
        ctx.save_for_backward(residual if out is None else output[0], weight, output[2])
        ctx.out_dtype = None if out is None else out.dtype
        ctx.set_materialize_grads(False)

    def autograd(ctx: Any, grad_summed: Tensor | None, grad_y: Tensor | None, _: Any) -> tuple[Any, ...]:
        summed, weight, scale = ctx.saved_tensors
        if grad_y is None:
            grad_y = torch.zeros_like(summed)
        grad, grad_weight = backward(grad_y, grad_summed if ctx.out_dtype else None, summed, weight, scale)
        return grad, None if ctx.out_dtype is None else grad.to(ctx.out_dtype), grad_weight, None, None

    def add_rms_norm(
        residual: Tensor, out: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """As `ops.add_rms_norm`."""
        dtype = weight.dtype if weight.dtype in NATIVE else torch.float32
        residual = residual.float().contiguous()
        if out is not None:
            out = (out if out.dtype in NATIVE else out.float()).contiguous()
        scale = weight.float().contiguous()
        chosen = op if grad_needed(residual, out, weight) else run
        summed, y, _ = chosen(residual, out, scale, eps, dtype)
        return (residual if out is None else summed), y.to(weight.dtype)

    op.register_autograd(autograd, setup_context=setup)
    return add_rms_norm
