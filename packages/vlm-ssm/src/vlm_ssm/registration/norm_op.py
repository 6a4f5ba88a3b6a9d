"""What a kernel library gives for residual addition and RMSNorm, unregistered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class NormKernels(NamedTuple):
    """The norm of a kernel library.

    `forward(residual, out, weight, eps, dtype)` -> residual + out (empty without `out`), its norm in `dtype`, and the
    scale of each row. `backward(grad_y, grad_summed, summed, weight, scale)` -> gradients of the sum and of the weight,
    fp32; it takes `added`, a tensor like the sum of any dtype to which it writes the gradient of the sum as well.
    Residual and weight are fp32; everything is contiguous. `scale(residual)` -> the shape of the scale.
    """

    forward: Callable[[Tensor, Tensor | None, Tensor, float, torch.dtype], tuple[Tensor, Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, Tensor]]
    scale: Callable[[Tensor], tuple[int, ...]] = lambda residual: residual.shape[:-1]


def writing_added(
    backward: Callable[[Tensor, Tensor | None, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Callable[..., tuple[Tensor, Tensor]]:
    """`NormKernels.backward` of one that does not take `added`."""

    def with_added(*given: Any, added: Tensor | None = None) -> tuple[Tensor, Tensor]:
        grad, grad_weight = backward(*given)
        if added is not None:
            added.copy_(grad)
        return grad, grad_weight

    return with_added
