"""Residual addition and RMSNorm on numba's kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_ssm.numba.address import address
from vlm_ssm.numba.kernels import norm as kernels
from vlm_ssm.registration.norm_op import NormKernels, registered_norm, writing_added
from vlm_ssm.runtime.huge_pages import with_huge_pages


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
        rows=residual.numel() // M,
        M=M,
        residual=residual.data_ptr(),
        out=address(out),
        item_out=item,
        weight=weight.data_ptr(),
        eps=eps.data_ptr(),
        summed=summed.data_ptr(),
        y=y.data_ptr(),
        item_y=y.element_size(),
        scale=scale.data_ptr(),
    )


def _run(
    residual: Tensor, out: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """residual + out (empty without `out`), y, and the scale of each row."""
    summed = residual.new_empty(0) if out is None else with_huge_pages(torch.empty_like(residual))
    y = with_huge_pages(torch.empty_like(residual, dtype=dtype))
    scale = residual.new_empty(residual.shape[:-1])
    tensors = (residual, out, weight, torch.tensor([eps], dtype=torch.float32), summed, y, scale)
    arguments = _arguments(*tensors)
    kernels.forward(-(-arguments.rows // kernels.ROWS), arguments)
    return summed, y, scale


def _backward(
    grad_y: Tensor, grad_summed: Tensor | None, summed: Tensor, weight: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of residual + out and of the weight."""
    grad_y = grad_y.contiguous()
    grad_summed = None if grad_summed is None else grad_summed.contiguous()
    arguments = _arguments(summed, None, weight, weight, summed, grad_y, scale)
    tasks = -(-arguments.rows // kernels.ROWS)
    grad, sums = with_huge_pages(torch.empty_like(summed)), weight.new_empty(tasks, len(weight))
    gradient = kernels.Gradient(grad_y.data_ptr(), address(grad_summed), grad.data_ptr(), sums.data_ptr())
    kernels.backward(tasks, arguments, gradient)
    return grad, sums.sum(0)


KERNELS = NormKernels(_run, writing_added(_backward))
add_rms_norm = registered_norm("numba", KERNELS)
