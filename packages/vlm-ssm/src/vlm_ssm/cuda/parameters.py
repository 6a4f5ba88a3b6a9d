"""What the kernels of a Mamba layer read of its parameters, and the parameters' gradients, in one launch each."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from vlm_ssm.cuda.launch import PLANS, Launch, is_usable, kernel
from vlm_ssm.cuda.memory import KINDS
from vlm_ssm.registration import layer_parameters

_TENSORS = (
    "A_log",
    "weight",
    "bias",
    "A",
    "by_tap",
    "bias_out",
    "grad_A",
    "grad_by_tap",
    "grad_A_log",
    "grad_weight",
)


def _covers(*tensors: Tensor) -> bool:
    return all(t.dtype == torch.float32 and t.is_contiguous() for t in tensors) and is_usable(
        tensors[0].device
    )


def _reads(weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the kernel reads the convolution's parameters as they are."""
    given = [weight] if bias is None else [weight, bias]
    return weight.dtype in KINDS and all(t.dtype == weight.dtype and t.is_contiguous() for t in given)


def prepare(A_log: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `layer_parameters.prepare`."""
    if not (_covers(A_log) and _reads(weight, bias)):
        return layer_parameters.prepare(A_log, weight, bias)
    (E, S), W = A_log.shape, weight.shape[2]
    A, by_tap = A_log.new_empty(1, E, S), A_log.new_empty(1, W, E)
    bias_out = None if bias is None else A_log.new_empty(1, E)
    launch = _launch("prepare", KINDS[weight.dtype], E, S, W, A.get_device())
    launch(A_log, weight, bias, A, by_tap, bias_out, None, None, None, None)
    return A, by_tap, bias_out


def gradients(grad_A: Tensor, A: Tensor, grad_by_tap: Tensor) -> tuple[Tensor, Tensor]:
    """As `layer_parameters.gradients`."""
    if not _covers(grad_A, A, grad_by_tap):
        return layer_parameters.gradients(grad_A, A, grad_by_tap)
    _, W, E = grad_by_tap.shape
    grad_A_log, grad_weight = A.new_empty(A.shape[1:]), A.new_empty(E, 1, W)
    launch = _launch("gradients", KINDS[torch.float32], E, A.shape[2], W, A.get_device())
    launch(None, None, None, A, None, None, grad_A, grad_by_tap, grad_A_log, grad_weight)
    return grad_A_log, grad_weight


@lru_cache(PLANS)
def _launch(entry: str, kind: int, E: int, S: int, W: int, device: int) -> Launch:
    """`kind`: type of the convolution's parameters."""
    run = kernel("parameters.cu", entry, ROW=kind)
    return run.prepare((-(-E * (S + W + 1) // 256), 1, 1), 256, 0, device, _TENSORS, E=E, S=S, W=W)
