"""What the kernels of a Mamba layer read of its fp32 parameters, and the parameters' gradients, in one launch each."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from vlm_ssm.cuda.launch import PLANS, Launch, is_usable, kernel
from vlm_ssm.registration import layer_parameters

_TENSORS = ("A_log", "weight", "A", "by_tap", "grad_A", "grad_by_tap", "grad_A_log", "grad_weight")


def _covers(*tensors: Tensor) -> bool:
    return all(t.dtype == torch.float32 and t.is_contiguous() for t in tensors) and is_usable(
        tensors[0].device
    )


def prepare(A_log: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """As `layer_parameters.prepare`."""
    if not _covers(A_log, weight):
        return layer_parameters.prepare(A_log, weight)
    (E, S), W = A_log.shape, weight.shape[2]
    A, by_tap = A_log.new_empty(1, E, S), A_log.new_empty(1, W, E)
    _launch("prepare", E, S, W, A.get_device())(A_log, weight, A, by_tap, None, None, None, None)
    return A, by_tap


def gradients(grad_A: Tensor, A: Tensor, grad_by_tap: Tensor) -> tuple[Tensor, Tensor]:
    """As `layer_parameters.gradients`."""
    if not _covers(grad_A, A, grad_by_tap):
        return layer_parameters.gradients(grad_A, A, grad_by_tap)
    _, W, E = grad_by_tap.shape
    grad_A_log, grad_weight = A.new_empty(A.shape[1:]), A.new_empty(E, 1, W)
    launch = _launch("gradients", E, A.shape[2], W, A.get_device())
    launch(None, None, A, None, grad_A, grad_by_tap, grad_A_log, grad_weight)
    return grad_A_log, grad_weight


@lru_cache(PLANS)
def _launch(entry: str, E: int, S: int, W: int, device: int) -> Launch:
    run = kernel("parameters.cu", entry, ROW=0)
    return run.prepare((-(-E * (S + W) // 256), 1, 1), 256, 0, device, _TENSORS, E=E, S=S, W=W)
