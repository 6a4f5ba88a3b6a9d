"""What kernels read of the parameters of a Mamba layer."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_ssm.registration.layouts import dense


def prepare(A_log: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """A_log (E, S), and weight (E, 1, W) and bias (E) of the convolution, in the layouts that kernels read.

    -> A = -exp(A_log) (1, E, S), weight (1, W, E), bias (1, E), in fp32.
    """
    A, by_tap = dense(-torch.exp(A_log.float())).unsqueeze(0), dense(weight.permute(1, 2, 0))
    return A, by_tap, None if bias is None else dense(bias).unsqueeze(0)


def gradients(grad_A: Tensor, A: Tensor, grad_by_tap: Tensor) -> tuple[Tensor, Tensor]:
    """Of what `prepare` returned -> of A_log (E, S) and of the weight (E, 1, W)."""
    return (grad_A * A).squeeze(0), grad_by_tap.permute(2, 0, 1).contiguous()
