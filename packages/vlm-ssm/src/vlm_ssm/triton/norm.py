"""Residual addition and RMSNorm on Triton's kernel."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from vlm_ssm.registration.norm_op import NormKernels, registered_norm, writing_added
from vlm_ssm.triton.kernels import norm as kernels

PROGRAMS = 512  # at most, of a backward: each sums the weight's gradient over its rows


def layout(width: int) -> dict[str, int]:
    """A program takes a row; 512 columns a warp."""
    block = triton.next_power_of_2(width)
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 512))}


def _run(
    residual: Tensor, out: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum (empty if nothing is added), y, and one factor a row."""
    summed = residual.new_empty(0) if out is None else torch.empty_like(residual)
    y, scale = torch.empty_like(residual, dtype=dtype), residual.new_empty(residual.shape[:-1])
    if scale.numel():
        width = residual.shape[-1]
        kernels.forward[(scale.numel(),)](
            residual, out, weight, summed, y, scale, width, eps, **layout(width)
        )
    return summed, y, scale


def _backward(
    grad_y: Tensor, grad_summed: Tensor | None, summed: Tensor, weight: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the sum's terms and of the weight."""
    rows, width = scale.numel(), summed.shape[-1]
    each = max(1, triton.cdiv(rows, PROGRAMS))
    programs = triton.cdiv(rows, each)
    grad, sums = torch.empty_like(summed), summed.new_empty(programs, width)
    if rows:
        kernels.backward[(programs,)](
            grad_y.contiguous(), None if grad_summed is None else grad_summed.contiguous(), summed, weight,
            scale, grad, sums, rows, width, each, **layout(width),
        )  # fmt: skip
    return grad, sums.sum(0)


KERNELS = NormKernels(_run, writing_added(_backward))
add_rms_norm = registered_norm("triton", KERNELS)
