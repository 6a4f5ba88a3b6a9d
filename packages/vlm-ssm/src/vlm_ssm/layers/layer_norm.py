"""The norm of a sum, as one kernel where the backend has one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlm_ssm.backends import backend
from vlm_ssm.layers.hooked_modules import plain


def norm_of_sum(norm: nn.Module, x: Tensor, skip: Tensor) -> Tensor:
    """norm(x + skip), both (…, M).

    On backend `cuda` a plain `nn.LayerNorm` is one kernel that adds and normalises in fp32. Under autocast its output
    is in autocast's dtype, to which a linear layer behind it would convert.
    """
    fused = getattr(backend(x.device), "add_layer_norm", None)
    dtype = None if fused is None else _output_dtype(norm, x, skip)
    if fused is None or dtype is None:
        return norm(x + skip)
    assert isinstance(norm, nn.LayerNorm)
    y = fused(x, skip, norm.weight, norm.bias, norm.eps, dtype)
    return norm(x + skip) if y is None else y


def _output_dtype(norm: nn.Module, x: Tensor, skip: Tensor) -> torch.dtype | None:
    """None if the norm has to be called: it is no plain LayerNorm of the last dimension with weight and bias."""
    if not plain(norm, nn.LayerNorm) or norm._parameters.get("bias") is None:
        return None
    weight, device = norm.get_parameter("weight"), x.device.type
    if weight.shape != x.shape[-1:]:
        return None
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    dtype = torch.promote_types(x.dtype, skip.dtype)
    return dtype if dtype == weight.dtype else None
