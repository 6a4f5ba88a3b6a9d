"""Autograd registration of the norm, and the function that calls it, for every kernel library.

`op` is the custom op, `run` the same function unregistered, for calls that need no gradient, `backward` the custom op
of the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vlm_ssm.registration.layouts import NATIVE
from vlm_ssm.registration.torch_modes import grad_needed


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
