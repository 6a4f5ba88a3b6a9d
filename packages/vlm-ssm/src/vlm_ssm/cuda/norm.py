"""Residual addition and RMSNorm on CUDA kernels, registered with torch as `cuda.scan` is."""

from __future__ import annotations

import struct
from typing import Any

import torch
from torch import Tensor

from vlm_ssm.cuda.launch import is_usable, kernel
from vlm_ssm.cuda.memory import KINDS, aligned
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


def layout(width: int) -> dict[str, int]:
    """Threads of a block and vectors of a thread, which hold a row."""
    vectors = width // VECTOR
    per = next(n for n in (1, 2, 4, MOST_VECTORS) if vectors <= n * MOST_THREADS)
    return {"THREADS": -(-vectors // (32 * per)) * 32, "PER": per}


def _launch(
    entry: str, blocks: int, like: Tensor, dtypes: tuple[torch.dtype | None, torch.dtype], **values: Any
) -> None:
    """`like`: fp32 of the rows' shape; `dtypes` of what is added, None if nothing is, and of y."""
    (added, normed), width = dtypes, like.shape[-1]
    kinds = {"ROW": KINDS[added or normed], "MAT": KINDS[normed], "ADDED": added is not None}
    constants = layout(width) | kinds
    names = ("residual", "out", "y", "grad_y", "grad_summed", "grad", "grad_out", "sums", "each", "eps")
    given = dict.fromkeys(names) | {"rows": like.numel() // width, "width": width} | values
    run = kernel("norm.cu", entry, **constants)
    run((blocks, 1, 1), constants["THREADS"], 0, like.device.index, **given)


def run_forward(
    residual: Tensor, out: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum (empty if nothing is added), y, and one factor a row."""
    summed = residual.new_empty(0) if out is None else torch.empty_like(residual)
    y, scale = torch.empty_like(residual, dtype=dtype), residual.new_empty(residual.shape[:-1])
    if scale.numel():
        (bits,) = struct.unpack("<I", struct.pack("<f", eps))
        tensors = {
            "residual": residual,
            "out": out,
            "weight": weight,
            "summed": summed,
            "y": y,
            "scale": scale,
        }
        dtypes = None if out is None else out.dtype, dtype
        _launch("norm_forward", scale.numel(), residual, dtypes, **tensors, eps=bits)
    return summed, y, scale


def run_backward(
    grad_y: Tensor,
    grad_summed: Tensor | None,
    summed: Tensor,
    weight: Tensor,
    scale: Tensor,
    out: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the residual, of what was added in its dtype (empty if that is fp32 or absent), of the weight."""
    rows, width = scale.numel(), summed.shape[-1]
    each = max(1, -(-rows // BLOCKS))
    grad, sums = torch.empty_like(summed), summed.new_empty(-(-rows // each), width)
    apart = out is not None and out != torch.float32
    grad_out = torch.empty_like(summed, dtype=out) if apart else summed.new_empty(0)
    if rows:
        grad_summed = None if grad_summed is None else aligned(grad_summed.contiguous())
        tensors = {"grad_y": aligned(grad_y.contiguous()), "grad_summed": grad_summed, "summed": summed}
        tensors |= {"weight": weight, "scale": scale, "grad": grad, "sums": sums}
        tensors["grad_out"] = grad_out if apart else None
        _launch("norm_backward", len(sums), summed, (out, grad_y.dtype), **tensors, each=each)
    return grad, grad_out, sums.sum(0)


_op = torch.library.custom_op("vlm_ssm::cuda_add_norm", run_forward, mutates_args=())
_backward_op = torch.library.custom_op("vlm_ssm::cuda_add_norm_backward", run_backward, mutates_args=())


@_op.register_fake
def _(residual, out, weight, eps, dtype):
    summed = residual.new_empty(0) if out is None else torch.empty_like(residual)
    return summed, torch.empty_like(residual, dtype=dtype), residual.new_empty(residual.shape[:-1])


@_backward_op.register_fake
def _(grad_y, grad_summed, summed, weight, scale, out):
    apart = out is not None and out != torch.float32
    grad_out = torch.empty_like(summed, dtype=out) if apart else summed.new_empty(0)
    return torch.empty_like(summed), grad_out, torch.empty_like(weight)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    residual, out, weight, _, ctx.dtype = inputs
    ctx.save_for_backward(residual if out is None else output[0], weight, output[2])
    ctx.out_dtype = None if out is None else out.dtype
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, grad_summed: Tensor | None, grad_y: Tensor | None, _: Any) -> tuple[Any, ...]:
    summed, weight, scale = ctx.saved_tensors
    if grad_y is None:  # the loss depends on the sum only
        grad_y = torch.zeros_like(summed, dtype=ctx.dtype)
    arriving = grad_summed if ctx.out_dtype else None
    grad, grad_out, grad_weight = _backward_op(grad_y, arriving, summed, weight, scale, ctx.out_dtype)
    given = None if ctx.out_dtype is None else grad_out if grad_out.numel() else grad
    return grad, given, grad_weight, None, None


_op.register_autograd(_autograd, setup_context=_setup)


def add_rms_norm(residual: Tensor, out: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `ops.add_rms_norm`; cases that the kernels don't cover go to Triton's."""
    if why_not_covered(residual.shape[-1]) or not is_usable(residual.device):
        return triton_norm.add_rms_norm(residual, out, weight, eps)
    dtype = weight.dtype if weight.dtype in KINDS else torch.float32
    residual = aligned(residual.float().contiguous())
    if out is not None:
        out = aligned((out if out.dtype in KINDS else out.float()).contiguous())
    scale = aligned(weight.float().contiguous())
    chosen = _op if grad_needed(residual, out, weight) else run_forward
    summed, y, _ = chosen(residual, out, scale, eps, dtype)
    return (residual if out is None else summed), y.to(weight.dtype)
