"""Residual addition and RMSNorm as a registered operation with its gradient, alike for every kernel library."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlm_ssm.registration.layouts import NATIVE, dense
from vlm_ssm.registration.library import Operation
from vlm_ssm.registration.torch_modes import grad_needed

FORWARD = (
    "(Tensor residual, Tensor? out, Tensor weight, float eps, ScalarType dtype) -> (Tensor, Tensor, Tensor)"
)
BACKWARD = (
    "(Tensor grad_y, Tensor? grad_summed, Tensor summed, Tensor weight, Tensor scale, ScalarType? out)"
    " -> (Tensor, Tensor, Tensor)"
)


class NormKernels(NamedTuple):
    """The norm of a kernel library, unregistered.

    `forward(residual, out, weight, eps, dtype)` -> residual + out (empty without `out`), its norm in `dtype`, and the
    scale of each row. `backward(grad_y, grad_summed, summed, weight, scale)` -> gradients of the sum and of the weight,
    fp32; it takes `added`, a tensor like the sum of any dtype to which it writes the gradient of the sum as well.
    The residual is fp32; everything is contiguous. `scale(residual)` -> the shape of the scale. `dtypes`: those
    of `out` and of the norm that the kernels read and write. `weights`: those of the weight.
    """

    forward: Callable[[Tensor, Tensor | None, Tensor, float, torch.dtype], tuple[Tensor, Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, Tensor]]
    scale: Callable[[Tensor], tuple[int, ...]] = lambda residual: residual.shape[:-1]
    dtypes: Container[torch.dtype] = NATIVE
    weights: Container[torch.dtype] = (torch.float32,)

    def weight(self, given: Tensor) -> Tensor:
        """The weight as the kernels read it."""
        return given.contiguous() if given.dtype in self.weights else dense(given)


def writing_added(
    backward: Callable[[Tensor, Tensor | None, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Callable[..., tuple[Tensor, Tensor]]:
    """`NormKernels.backward` of one that does not take `added`."""

    def with_added(*given: Any, added: Tensor | None = None) -> tuple[Tensor, Tensor]:
        grad, grad_weight = backward(*given)
        if added is not None:
            added.copy_(grad)
        return grad, grad_weight

    return with_added


def _like_added(summed: Tensor, dtype: torch.dtype | None) -> Tensor | None:
    """Memory for the gradient of what was added, of `dtype`; None if that is the sum's gradient, or nothing was."""
    return None if dtype in (None, torch.float32) else torch.empty_like(summed, dtype=dtype)


def _or_empty(added: Tensor | None, summed: Tensor) -> Tensor:
    return summed.new_empty(0) if added is None else added


def _fake_backward(
    grad_y: Tensor,
    grad_summed: Tensor | None,
    summed: Tensor,
    weight: Tensor,
    scale: Tensor,
    out: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    added = _or_empty(_like_added(summed, out), summed)
    return torch.empty_like(summed), added, torch.empty_like(weight)


def _register(name: str, kernels: NormKernels) -> Any:
    def fake(
        residual: Tensor, out: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        summed = residual.new_empty(0) if out is None else torch.empty_like(residual)
        return summed, torch.empty_like(residual, dtype=dtype), residual.new_empty(kernels.scale(residual))

    def backward(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
        *tensors, out = given
        summed = tensors[2]
        added = _like_added(summed, out)
        grad, grad_weight = kernels.backward(*tensors, added=added)
        return grad, _or_empty(added, summed), grad_weight

    gradient = Operation(f"{name}_add_norm_backward", BACKWARD, backward, _fake_backward)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        residual, out, weight, _, ctx.dtype = inputs
        ctx.save_for_backward(residual if out is None else output[0], weight, output[2])
        ctx.mark_non_differentiable(output[2], *(() if out is not None else (output[0],)))
        ctx.out_dtype = None if out is None else out.dtype
        ctx.set_materialize_grads(False)

    def autograd(
        ctx: Any, saved: Any, grad_summed: Tensor | None, grad_y: Tensor | None, _: Any
    ) -> tuple[Any, ...]:
        summed, weight, scale = saved
        if grad_y is None:  # the loss depends on the sum only
            grad_y = torch.zeros_like(summed, dtype=ctx.dtype)
        arriving = grad_summed if ctx.out_dtype else None
        grad, added, grad_weight = gradient(grad_y, arriving, summed, weight, scale, ctx.out_dtype)
        of_out = None if ctx.out_dtype is None else grad if ctx.out_dtype == torch.float32 else added
        return grad, of_out, grad_weight, None, None

    op = Operation(f"{name}_add_norm", FORWARD, kernels.forward, fake)
    op.differentiate(setup, autograd)
    return op


def registered_norm(name: str, kernels: NormKernels) -> Callable[..., tuple[Tensor, Tensor]]:
    """Register a library's norm as `{name}_add_norm` -> its `add_rms_norm`."""
    op = _register(name, kernels)

    def add_rms_norm(
        residual: Tensor, out: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """As `ops.add_rms_norm`."""
        dtype = weight.dtype if weight.dtype in kernels.dtypes else torch.float32
        residual = residual.float().contiguous()
        if out is not None:
            out = (out if out.dtype in kernels.dtypes else out.float()).contiguous()
        scale = weight.float().contiguous()
        chosen = op if grad_needed(residual, out, weight) else kernels.forward
        summed, y, _ = chosen(residual, out, scale, eps, dtype)
        return (residual if out is None else summed), y.to(weight.dtype)

    return add_rms_norm
