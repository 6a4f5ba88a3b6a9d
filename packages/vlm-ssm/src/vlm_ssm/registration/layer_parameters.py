"""What kernels read of the parameters of a Mamba layer."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_ssm.registration.layouts import dense


def prepare(A_log: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """A_log (E, S) and the convolution's weight (E, 1, W) -> A = -exp(A_log) (1, E, S) and weight (1, W, E), fp32."""
    return dense(-torch.exp(A_log.float())).unsqueeze(0), dense(weight.permute(1, 2, 0))


def gradients(grad_A: Tensor, A: Tensor, grad_by_tap: Tensor) -> tuple[Tensor, Tensor]:
    """Of what `prepare` returned -> of A_log (E, S) and of the weight (E, 1, W)."""
    return (grad_A * A).squeeze(0), grad_by_tap.permute(2, 0, 1).contiguous()
