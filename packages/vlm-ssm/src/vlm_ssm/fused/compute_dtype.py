"""Weights and activations in the dtype that a layer computes in."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_ssm.registration.cast_cache import cast


def compute_dtype(x: Tensor, dtype: torch.dtype | None = None) -> torch.dtype:
    """The dtype of matrix products on x's device: autocast's where it is enabled, else `dtype`, else x's."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype or x.dtype


def cast_weight(parameter: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in `dtype`, without a gradient: itself if it has that dtype.

    The only function through which fused layers get their matrices, forward and backward. In `keep_casts` each is cast
    once.
    """
    return cast(parameter, dtype)
