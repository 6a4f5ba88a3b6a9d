"""What a kernel library gives for residual addition and RMSNorm, unregistered."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class NormKernels(NamedTuple):
    """The norm of a kernel library.

    `forward(residual, out, weight, eps, dtype)` -> residual + out (empty without `out`), its norm in `dtype`, and the
    scale of each row. `backward(grad_y, grad_summed, summed, weight, scale)` -> gradients of the sum and of the weight,
    fp32. Residual and weight are fp32; everything is contiguous. `scale(residual)` -> the shape of the scale.
    """

    forward: Callable[[Tensor, Tensor | None, Tensor, float, torch.dtype], tuple[Tensor, Tensor, Tensor]]
    backward: Callable[[Tensor, Tensor | None, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    scale: Callable[[Tensor], tuple[int, ...]] = lambda residual: residual.shape[:-1]
