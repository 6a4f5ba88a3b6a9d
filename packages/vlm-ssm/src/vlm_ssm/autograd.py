"""What scan, convolution and norm of every kernel library share: registration with autograd, and the call around it.

`op` is the registered operation, `run` the same without registration, for calls that need no gradient; `backward` is
the registered gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vlm_ssm.layouts import NATIVE, dense, native
from vlm_ssm.segments import Edges
from vlm_ssm.torch_modes import grad_needed


def scan_with(
    op: Any, run: Callable[..., Any], backward: Any, matrix: Callable[[Tensor], Tensor]
) -> Callable[..., tuple[Tensor, Tensor]]:
    """`ops.scan`; `matrix` lays B and C out in fp32 as the kernels read them.

    `op` takes (u, dt, A, B, C, D, bias, z, h0, flags, routes, softplus, separate) and gives y, the last state, and two
    tensors for the backward; `run` takes one flag more: whether these are wanted.
    """

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.softplus, _ = inputs
        ctx.save_for_backward(*tensors, output[2], output[3])
        ctx.out_shape = output[0].shape
        ctx.set_materialize_grads(
            False
        )  # zeros for the sums and saved states would be a pass over memory each

    def autograd(ctx: Any, grad_out: Tensor | None, grad_last: Tensor | None, *_: Any) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        if grad_out is None:  # only the state is used
            grad_out = saved[0].new_zeros(ctx.out_shape)
        *grads, grad_z, grad_h0 = backward(grad_out, grad_last, *saved, ctx.softplus)
        D, bias, z, h0 = saved[5:9]
        grad_D, grad_bias = grads[5:]
        return (
            *grads[:5], None if D is None else grad_D, None if bias is None else grad_bias,
            None if z is None else grad_z, None if h0 is None else grad_h0, None, None, None, None,
        )  # fmt: skip

    def scan(
        u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None,
        z: Tensor | None, h0: Tensor | None, edges: Edges | None, routes: Tensor | None,
        softplus: bool, separate: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """As `ops.scan`."""
        dtype = u.dtype
        u, dt, B, C = native(u), native(dt), matrix(B), matrix(C)
        A, z = dense(A), None if z is None else native(z)
        D, bias, h0 = (None if t is None else dense(t) for t in (D, bias, h0))
        flags = None if edges is None else edges.flags.contiguous()
        arguments = (u, dt, A, B, C, D, bias, z, h0, flags, routes, softplus, separate)
        if grad_needed(u, dt, A, B, C, D, bias, z, h0):
            y, last, _, _ = op(*arguments)
        else:
            y, last, _, _ = run(*arguments, False)
        return y.to(dtype), last

    op.register_autograd(autograd, setup_context=setup)
    return scan


def conv_with(op: Any, run: Callable[..., Any], backward: Any) -> Callable[..., Tensor]:
    """`ops.conv`; `op` and `run` take (x, weight by tap, bias, state, flags, since, front, routes)."""

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def autograd(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        grad_x, grad_weight, grad_bias, grad_state = backward(grad, *saved)
        _, _, bias, state = saved[:4]
        return (
            grad_x, grad_weight, None if bias is None else grad_bias, None if state is None else grad_state,
            None, None, None, None,
        )  # fmt: skip

    def conv(
        x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, edges: Edges | None,
        routes: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """As `ops.conv`."""
        dtype, x = x.dtype, native(x)
        state = None if state is None else state.to(x.dtype).contiguous()
        flags, since, front = (None, None, None) if edges is None else (t.contiguous() for t in edges)
        by_tap = dense(weight.transpose(1, 2))
        bias = None if bias is None else dense(bias)
        chosen = op if grad_needed(x, weight, bias, state) else run
        return chosen(x, by_tap, bias, state, flags, since, front, routes).to(dtype)

    op.register_autograd(autograd, setup_context=setup)
    return conv


def norm_with(op: Any, run: Callable[..., Any], backward: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    """`ops.add_norm`; `op` and `run` give the sum (empty if nothing is added), y, and one factor a row."""

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

    def add_norm(residual: Tensor, out: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """As `ops.add_norm`."""
        dtype = weight.dtype if weight.dtype in NATIVE else torch.float32
        residual = residual.float().contiguous()
        if out is not None:
            out = (out if out.dtype in NATIVE else out.float()).contiguous()
        scale = weight.float().contiguous()
        chosen = op if grad_needed(residual, out, weight) else run
        summed, y, _ = chosen(residual, out, scale, eps, dtype)
        return (residual if out is None else summed), y.to(weight.dtype)

    op.register_autograd(autograd, setup_context=setup)
    return add_norm
