"""Residual addition and RMSNorm on numba's kernel, registered with torch as `numba.scan` does."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_ssm.numba.address import address
from vlm_ssm.numba.kernels import norm as kernels
from vlm_ssm.registration.autograd import norm_with


def _arguments(
    residual: Tensor,
    out: Tensor | None,
    weight: Tensor,
    eps: Tensor,
    summed: Tensor,
    y: Tensor,
    scale: Tensor,
) -> kernels.Norm:
    M = residual.shape[-1]
    item = 0 if out is None else out.element_size()
    return kernels.Norm(
        residual.numel() // M, M, residual.data_ptr(), address(out), item, weight.data_ptr(), eps.data_ptr(),
        summed.data_ptr(), y.data_ptr(), y.element_size(), scale.data_ptr(),
    )  # fmt: skip


def _run(
    residual: Tensor, out: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum (empty if nothing is added), y, and one factor a row."""
    summed = residual.new_empty(0) if out is None else torch.empty_like(residual)
    y, scale = torch.empty_like(residual, dtype=dtype), residual.new_empty(residual.shape[:-1])
    held = torch.tensor([eps], dtype=torch.float32)
    arguments = _arguments(residual, out, weight, held, summed, y, scale)
    kernels.forward(-(-arguments.rows // kernels.ROWS), arguments)
    return summed, y, scale


_op = torch.library.custom_op("vlm_ssm::numba_add_norm", _run, mutates_args=())


@_op.register_fake
def _(residual, out, weight, eps, dtype):
    summed = residual.new_empty(0) if out is None else torch.empty_like(residual)
    return summed, torch.empty_like(residual, dtype=dtype), residual.new_empty(residual.shape[:-1])


@torch.library.custom_op("vlm_ssm::numba_add_norm_backward", mutates_args=())
def _backward_op(
    grad_y: Tensor, grad_summed: Tensor | None, summed: Tensor, weight: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the sum's terms and of the weight."""
    grad_y = grad_y.contiguous()
    grad_summed = None if grad_summed is None else grad_summed.contiguous()
    arguments = _arguments(summed, None, weight, weight, summed, grad_y, scale)
    tasks = -(-arguments.rows // kernels.ROWS)
    grad, sums = torch.empty_like(summed), weight.new_empty(tasks, len(weight))
    gradient = kernels.Gradient(grad_y.data_ptr(), address(grad_summed), grad.data_ptr(), sums.data_ptr())
    kernels.backward(tasks, arguments, gradient)
    return grad, sums.sum(0)


@_backward_op.register_fake
def _(grad_y, grad_summed, summed, weight, scale):
    return torch.empty_like(summed), torch.empty_like(weight)


add_rms_norm = norm_with(_op, _run, _backward_op)
