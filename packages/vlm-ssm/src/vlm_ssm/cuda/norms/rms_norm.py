"""Residual addition and RMSNorm on CUDA kernels."""

from __future__ import annotations

import struct
from functools import lru_cache

import torch
from torch import Tensor

from vlm_ssm.cuda.launch import PLANS, Launch, is_usable, kernel
from vlm_ssm.cuda.memory import KINDS, aligned
from vlm_ssm.registration.norm_op import NormKernels, registered_norm
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
    which: str,
    rows: int,
    width: int,
    dtypes: tuple[torch.dtype | None, torch.dtype, torch.dtype],
    eps: float,
    device: int,
) -> Launch:
    """`which`: forward or backward; dtypes of what is added, None if nothing is, of y, and of the weight."""
    added, normed, weight = dtypes
    each = rows_of_block(rows) if which == "backward" else 1
    kinds = {"ROW": KINDS[added or normed], "MAT": KINDS[normed], "WEIGHT": KINDS[weight]}
    kinds["ADDED"] = added is not None
    constants = row_constants(width) | kinds
    run = kernel("norm.cu", f"norm_{which}", **constants)
    sizes = {"rows": rows, "width": width, "each": each, "eps": float_bits(eps)}
    return run.prepare((-(-rows // each), 1, 1), constants["THREADS"], 0, device, _TENSORS, **sizes)


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
        dtypes = None if out is None else out.dtype, dtype, weight.dtype
        launch = _launch("forward", scale.numel(), residual.shape[-1], dtypes, eps, residual.get_device())
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
        dtypes = None if added is None else added.dtype, grad_y.dtype, weight.dtype
        launch = _launch("backward", rows, width, dtypes, 0.0, summed.get_device())
        launch(None, None, weight, summed, None, scale, grad_y, grad_summed, grad, added, sums)
    return grad, sums.sum(0)


KERNELS = NormKernels(_forward, _backward, dtypes=KINDS, weights=KINDS)
_add_rms_norm = registered_norm("cuda", KERNELS)


def add_rms_norm(residual: Tensor, out: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `ops.add_rms_norm`; widths that the kernels don't cover go to Triton's."""
    chosen = _add_rms_norm if _covers(residual) else triton_norm.add_rms_norm
    return chosen(residual, out, weight, eps)


def _covers(residual: Tensor) -> bool:
    return why_not_covered(residual.shape[-1]) is None and is_usable(residual.device)


def norm_kernels(residual: Tensor) -> NormKernels:
    """The kernels that compute the norm of rows (…, M)."""
    return KERNELS if _covers(residual) else triton_norm.KERNELS
