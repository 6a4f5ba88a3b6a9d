"""Residual addition and RMSNorm on CUDA kernels."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from vlm_ssm.cuda.launch import PLANS, Launch, is_usable, kernel
from vlm_ssm.cuda.memory import KINDS, aligned
from vlm_ssm.registration.library import Operation
from vlm_ssm.registration.norm_op import NormKernels
from vlm_ssm.registration.torch_modes import grad_needed
from vlm_ssm.triton import norm as triton_norm

VECTOR, MOST_THREADS, MOST_VECTORS = 4, 256, 8
"""Numbers that a thread reads at once; threads of a block; vectors of a thread."""
BLOCKS = 4 * 132
"""Of a backward, at most: each sums the weight's gradient over its rows."""


def why_not_covered(width: int) -> str | None:
    """Why rows of a width go to Triton's kernels; None if they don't."""
    if width % VECTOR or not width:
        return f"{width} columns, no multiple of {VECTOR}"
    most = VECTOR * MOST_THREADS * MOST_VECTORS
    return None if width <= most else f"{width} columns, more than {most}"


def row_constants(width: int) -> dict[str, int]:
    """Threads of a block and vectors of a thread, which hold a row."""
    vectors = width // VECTOR
    per = next(n for n in (1, 2, 4, MOST_VECTORS) if vectors <= n * MOST_THREADS)
    return {"THREADS": -(-vectors // (32 * per)) * 32, "PER": per}


def rows_of_block(rows: int) -> int:
    """In a backward."""
    return max(1, -(-rows // BLOCKS))


@lru_cache(PLANS)
def float_bits(value: float) -> int:
    """Of a float in fp32."""
    return struct.unpack("<I", struct.pack("<f", value))[0]


_TENSORS = (
    "residual",
    "out",
    "weight",
    "summed",
    "y",
    "scale",
    "grad_y",
    "grad_summed",
    "grad",
    "grad_out",
    "sums",
)


@lru_cache(PLANS)
def _launch(
    which: str, rows: int, width: int, added: torch.dtype | None, normed: torch.dtype, eps: float, device: int
) -> Launch:
    """`which`: forward or backward; dtypes of what is added, None if nothing is, and of y."""
    each = rows_of_block(rows) if which == "backward" else 1
    kinds = {"ROW": KINDS[added or normed], "MAT": KINDS[normed], "ADDED": added is not None}
    constants = row_constants(width) | kinds
    run = kernel("norm.cu", f"norm_{which}", **constants)
    sizes = {"rows": rows, "width": width, "each": each, "eps": float_bits(eps)}
    return run.prepare((-(-rows // each), 1, 1), constants["THREADS"], 0, device, _TENSORS, **sizes)


def _covers(rows: Tensor) -> bool:
    return why_not_covered(rows.shape[-1]) is None and is_usable(rows.device)


def _forward(
    residual: Tensor, out: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """As `NormKernels.forward`."""
    residual, weight = aligned(residual), aligned(weight)
    if out is not None:
        out = aligned(out if out.dtype in KINDS else out.float())
    summed = residual.new_empty(0) if out is None else torch.empty_like(residual)
    y, scale = torch.empty_like(residual, dtype=dtype), residual.new_empty(residual.shape[:-1])
    if scale.numel():
        added, width = None if out is None else out.dtype, residual.shape[-1]
        launch = _launch("forward", scale.numel(), width, added, dtype, eps, residual.get_device())
        launch(residual, out, weight, summed, y, scale, None, None, None, None, None)
    return summed, y, scale


def _backward(
    grad_y: Tensor,
    grad_summed: Tensor | None,
    summed: Tensor,
    weight: Tensor,
    scale: Tensor,
    *,
    added: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `NormKernels.backward`."""
    rows, width = scale.numel(), summed.shape[-1]
    summed, weight, grad_y = aligned(summed), aligned(weight), aligned(grad_y.contiguous())
    grad_summed = None if grad_summed is None else aligned(grad_summed.contiguous())
    grad, sums = torch.empty_like(summed), summed.new_empty(-(-rows // rows_of_block(rows)), width)
    if rows:
        dtype = None if added is None else added.dtype
        launch = _launch("backward", rows, width, dtype, grad_y.dtype, 0.0, summed.get_device())
        launch(None, None, weight, summed, None, scale, grad_y, grad_summed, grad, added, sums)
    return grad, sums.sum(0)


def forward(
    residual: Tensor, out: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """As `NormKernels.forward`; widths that the kernels don't cover go to Triton's."""
    chosen = _forward if _covers(residual) else triton_norm.KERNELS.forward
    return chosen(residual, out, weight, eps, dtype)


def backward(
    grad_y: Tensor,
    grad_summed: Tensor | None,
    summed: Tensor,
    weight: Tensor,
    scale: Tensor,
    *,
    added: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `NormKernels.backward`; widths that the kernels don't cover go to Triton's."""
    chosen = _backward if _covers(summed) else triton_norm.KERNELS.backward
    return chosen(grad_y, grad_summed, summed, weight, scale, added=added)


KERNELS = NormKernels(forward, backward)


def norm_kernels() -> NormKernels:
    return KERNELS


def _registered_backward(
    grad_y: Tensor,
    grad_summed: Tensor | None,
    summed: Tensor,
    weight: Tensor,
    scale: Tensor,
    out: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the residual, of what was added in its dtype (empty if that is fp32 or absent), of the weight."""
    apart = out is not None and out != torch.float32
    added = torch.empty_like(summed, dtype=out) if apart else None
    grad, grad_weight = backward(grad_y, grad_summed, summed, weight, scale, added=added)
    return grad, summed.new_empty(0) if added is None else added, grad_weight


def _fake_forward(
    residual: Tensor, out: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    summed = residual.new_empty(0) if out is None else torch.empty_like(residual)
    return summed, torch.empty_like(residual, dtype=dtype), residual.new_empty(residual.shape[:-1])


def _fake_backward(
    grad_y: Tensor, grad_summed: Tensor | None, summed: Tensor, weight: Tensor, scale: Tensor, out: Any
) -> tuple[Tensor, Tensor, Tensor]:
    apart = out is not None and out != torch.float32
    added = torch.empty_like(summed, dtype=out) if apart else summed.new_empty(0)
    return torch.empty_like(summed), added, torch.empty_like(weight)


_gradient = Operation(
    "cuda_add_norm_backward",
    "(Tensor grad_y, Tensor? grad_summed, Tensor summed, Tensor weight, Tensor scale, ScalarType? out)"
    " -> (Tensor, Tensor, Tensor)",
    _registered_backward,
    _fake_backward,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    residual, out, weight, _, ctx.dtype = inputs
    ctx.save_for_backward(residual if out is None else output[0], weight, output[2])
    ctx.mark_non_differentiable(output[2], *(() if out is not None else (output[0],)))
    ctx.out_dtype = None if out is None else out.dtype
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, grad_summed: Tensor | None, grad_y: Tensor | None, _: Any) -> tuple[Any, ...]:
    summed, weight, scale = ctx.saved_tensors
    if grad_y is None:  # the loss depends on the sum only
        grad_y = torch.zeros_like(summed, dtype=ctx.dtype)
    arriving = grad_summed if ctx.out_dtype else None
    grad, added, grad_weight = _gradient(grad_y, arriving, summed, weight, scale, ctx.out_dtype)
    given = None if ctx.out_dtype is None else added if added.numel() else grad.to(ctx.out_dtype)
    return grad, given, grad_weight, None, None


_op = Operation(
    "cuda_add_norm",
    "(Tensor residual, Tensor? out, Tensor weight, float eps, ScalarType dtype) -> (Tensor, Tensor, Tensor)",
    forward,
    _fake_forward,
)
_op.differentiate(_setup, _autograd)


def add_rms_norm(residual: Tensor, out: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `ops.add_rms_norm`; cases that the kernels don't cover go to Triton's."""
    if not _covers(residual):
        return triton_norm.add_rms_norm(residual, out, weight, eps)
    dtype = weight.dtype if weight.dtype in KINDS else torch.float32
    residual = residual.float().contiguous()
    if out is not None:
        out = (out if out.dtype in KINDS else out.float()).contiguous()
    scale = weight.float().contiguous()
    chosen = _op if grad_needed(residual, out, weight) else forward
    summed, y, _ = chosen(residual, out, scale, eps, dtype)
    return (residual if out is None else summed), y.to(weight.dtype)
