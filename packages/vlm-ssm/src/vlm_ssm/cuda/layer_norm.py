"""LayerNorm of a sum on CUDA kernels, registered with torch as `cuda.scan` is."""

from __future__ import annotations

import struct
from typing import Any

import torch
from torch import Tensor

from vlm_ssm.cuda.launch import is_usable, kernel
from vlm_ssm.cuda.memory import KINDS, aligned
from vlm_ssm.cuda.norm import BLOCKS, layout, why_not_covered
from vlm_ssm.registration.torch_modes import grad_needed, without_autocast


def is_covered(x: Tensor, skip: Tensor) -> bool:
    """Whether the kernels take these rows."""
    known = x.dtype in KINDS and skip.dtype in KINDS and x.shape == skip.shape
    return known and x.is_cuda and why_not_covered(x.shape[-1]) is None and is_usable(x.device)


def _launch(entry: str, blocks: int, x: Tensor, skip: Tensor, out: torch.dtype, **values: Any) -> None:
    width = x.shape[-1]
    constants = layout(width) | {"ROW": KINDS[x.dtype], "MAT": KINDS[skip.dtype], "OUT": KINDS[out]}
    names = ("bias", "y", "grad_y", "grad_x", "grad_skip", "sums", "each", "eps")
    given = dict.fromkeys(names) | {"x": x, "skip": skip, "rows": x.numel() // width, "width": width} | values
    run = kernel("layer_norm.cu", entry, **constants)
    run((blocks, 1, 1), constants["THREADS"], 0, x.device.index, **given)


def run_forward(
    x: Tensor, skip: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """y in `dtype`; mean and factor of each row."""
    y = torch.empty_like(x, dtype=dtype)
    mean, scale = (weight.new_empty(x.shape[:-1]) for _ in range(2))
    if scale.numel():
        (bits,) = struct.unpack("<I", struct.pack("<f", eps))
        tensors = {"weight": weight, "bias": bias, "y": y, "mean": mean, "scale": scale}
        _launch("layer_norm_forward", scale.numel(), x, skip, dtype, **tensors, eps=bits)
    return y, mean, scale


def run_backward(
    grad_y: Tensor, x: Tensor, skip: Tensor, weight: Tensor, mean: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, skip (empty if that of x is it, too), weight, bias."""
    rows, width = scale.numel(), x.shape[-1]
    each = max(1, -(-rows // BLOCKS))
    sums, same = weight.new_empty(-(-rows // each), 2, width), x.dtype == skip.dtype
    grad_x, grad_skip = torch.empty_like(x), skip.new_empty(0) if same else torch.empty_like(skip)
    if rows:
        grad_y = aligned(grad_y.contiguous())
        tensors = {"weight": weight, "mean": mean, "scale": scale, "grad_y": grad_y, "grad_x": grad_x}
        tensors |= {"grad_skip": None if same else grad_skip, "sums": sums}
        _launch("layer_norm_backward", len(sums), x, skip, grad_y.dtype, **tensors, each=each)
    grad_weight, grad_bias = sums.sum(0).unbind()
    return grad_x, grad_skip, grad_weight.clone(), grad_bias.clone()


_op = torch.library.custom_op("vlm_ssm::cuda_layer_norm", run_forward, mutates_args=())
_backward_op = torch.library.custom_op("vlm_ssm::cuda_layer_norm_backward", run_backward, mutates_args=())


@_op.register_fake
def _(x, skip, weight, bias, eps, dtype):
    rows = [weight.new_empty(x.shape[:-1]) for _ in range(2)]
    return torch.empty_like(x, dtype=dtype), *rows


@_backward_op.register_fake
def _(grad_y, x, skip, weight, mean, scale):
    grad_skip = skip.new_empty(0) if x.dtype == skip.dtype else torch.empty_like(skip)
    return torch.empty_like(x), grad_skip, torch.empty_like(weight), torch.empty_like(weight)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, skip, weight, *_ = inputs
    ctx.save_for_backward(x, skip, weight, output[1], output[2])
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, grad_y: Tensor, *_: Any) -> tuple[Any, ...]:
    x, skip, *rest = ctx.saved_tensors
    grad_x, grad_skip, grad_weight, grad_bias = _backward_op(grad_y, x, skip, *rest)
    return grad_x, grad_skip if x.dtype != skip.dtype else grad_x, grad_weight, grad_bias, None, None


_op.register_autograd(_autograd, setup_context=_setup)


def add_layer_norm(
    x: Tensor, skip: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> Tensor | None:
    """LayerNorm of x + skip, both (…, M), in `dtype`; everything inside is fp32. None for rows that aren't covered."""
    if dtype not in KINDS or not is_covered(x, skip):
        return None
    with without_autocast(x):
        x, skip = aligned(x.contiguous()), aligned(skip.contiguous())
        weight, bias = (aligned(t.float().contiguous()) for t in (weight, bias))
        chosen = _op if grad_needed(x, skip, weight, bias) else run_forward
        return chosen(x, skip, weight, bias, eps, dtype)[0]
