"""LayerNorm of a sum on CUDA kernels."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from vlm_ssm.cuda.launch import PLANS, Launch, is_usable, kernel
from vlm_ssm.cuda.memory import KINDS, aligned
from vlm_ssm.cuda.norms.rms_norm import float_bits, row_constants, rows_of_block, why_not_covered
from vlm_ssm.registration.library import Operation
from vlm_ssm.registration.torch_modes import grad_needed, without_autocast

_TENSORS = ("x", "skip", "weight", "bias", "y", "mean", "scale", "grad_y", "grad_x", "grad_skip", "sums")


@lru_cache(PLANS)
def _launch(
    which: str, rows: int, width: int, dtypes: tuple[torch.dtype, ...], eps: float, device: int
) -> Launch:
    """`which`: forward or backward; `dtypes` of x, skip and y."""
    each = rows_of_block(rows) if which == "backward" else 1
    kinds = dict(zip(("ROW", "MAT", "OUT"), (KINDS[dtype] for dtype in dtypes), strict=True))
    constants = row_constants(width) | kinds
    run = kernel("layer_norm.cu", f"layer_norm_{which}", **constants)
    sizes = {"rows": rows, "width": width, "each": each, "eps": float_bits(eps)}
    return run.prepare((-(-rows // each), 1, 1), constants["THREADS"], 0, device, _TENSORS, **sizes)


def _forward(
    x: Tensor, skip: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """y in `dtype`; mean and factor of each row."""
    y = torch.empty_like(x, dtype=dtype)
    mean, scale = (weight.new_empty(x.shape[:-1]) for _ in range(2))
    if rows := scale.numel():
        dtypes = (x.dtype, skip.dtype, dtype)
        launch = _launch("forward", rows, x.shape[-1], dtypes, eps, x.get_device())
        launch(x, skip, weight, bias, y, mean, scale, None, None, None, None)
    return y, mean, scale


def _backward(
    grad_y: Tensor, x: Tensor, skip: Tensor, weight: Tensor, mean: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of skip (empty if that of x is it, too), and of weight and bias (2, M)."""
    rows, width = scale.numel(), x.shape[-1]
    sums, same = weight.new_empty(-(-rows // rows_of_block(rows)), 2, width), x.dtype == skip.dtype
    grad_x, grad_skip = torch.empty_like(x), skip.new_empty(0) if same else torch.empty_like(skip)
    if rows:
        grad_y = aligned(grad_y.contiguous())
        dtypes = (x.dtype, skip.dtype, grad_y.dtype)
        launch = _launch("backward", rows, width, dtypes, 0.0, x.get_device())
        to = None if same else grad_skip
        launch(x, skip, weight, None, None, mean, scale, grad_y, grad_x, to, sums)
    return grad_x, grad_skip, sums.sum(0)


def _fake_forward(
    x: Tensor, skip: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    mean, scale = (weight.new_empty(x.shape[:-1]) for _ in range(2))
    return torch.empty_like(x, dtype=dtype), mean, scale


def _fake_backward(
    grad_y: Tensor, x: Tensor, skip: Tensor, weight: Tensor, mean: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad_skip = skip.new_empty(0) if x.dtype == skip.dtype else torch.empty_like(skip)
    return torch.empty_like(x), grad_skip, weight.new_empty(2, x.shape[-1])


_gradient = Operation(
    "cuda_layer_norm_backward",
    "(Tensor grad_y, Tensor x, Tensor skip, Tensor weight, Tensor mean, Tensor scale) -> (Tensor, Tensor, Tensor)",
    _backward,
    _fake_backward,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, skip, weight, *_ = inputs
    ctx.save_for_backward(x, skip, weight, output[1], output[2])
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, saved: Any, grad_y: Tensor, *_: Any) -> tuple[Any, ...]:
    x, skip, *rest = saved
    grad_x, grad_skip, (grad_weight, grad_bias) = _gradient(grad_y, x, skip, *rest)
    return grad_x, grad_skip if x.dtype != skip.dtype else grad_x, grad_weight, grad_bias, None, None


_op = Operation(
    "cuda_layer_norm",
    "(Tensor x, Tensor skip, Tensor weight, Tensor bias, float eps, ScalarType dtype) -> (Tensor, Tensor, Tensor)",
    _forward,
    _fake_forward,
)
_op.differentiate(_setup, _autograd)


def add_layer_norm(
    x: Tensor, skip: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> Tensor | None:
    """LayerNorm of x + skip, both (…, M), in `dtype`; everything inside is fp32. None for rows that aren't covered."""
    known = all(kind in KINDS for kind in (dtype, x.dtype, skip.dtype)) and x.shape == skip.shape
    if not known or not x.is_cuda or why_not_covered(x.shape[-1]) or not is_usable(x.device):
        return None
    with without_autocast(x):
        x, skip = aligned(x.contiguous()), aligned(skip.contiguous())
        weight, bias = (aligned(t.float().contiguous()) for t in (weight, bias))
        chosen = _op if grad_needed(x, skip, weight, bias) else _forward
        return chosen(x, skip, weight, bias, eps, dtype)[0]
