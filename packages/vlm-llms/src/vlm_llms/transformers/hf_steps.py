"""Time step limits of Mamba-2 layers of transformers: the same clamp in prefill and decoding.

transformers 5.24 clamps Δ to `time_step_limit` in prefill but not in decoding (Zamba2 has a limit by default).
clamp(softplus(x + bias)) equals softplus(clamp'(x) + bias), so clamping the Δ that in_proj returns, the last of its
outputs, has the same effect in both.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def _inverse_softplus(y: float) -> float:
    """The x with softplus(x) = y."""
    if y <= 0:
        return -math.inf
    return y + math.log(-math.expm1(-y)) if math.isfinite(y) else math.inf


def limit_steps(model: nn.Module) -> None:
    """Clamp Δ in prefill and decoding alike, in every layer with `time_step_limit`."""
    for layer in model.modules():
        low, high = getattr(layer, "time_step_limit", None) or (0.0, math.inf)
        bias, projection = getattr(layer, "dt_bias", None), getattr(layer, "in_proj", None)
        if (
            (low > 0 or high < math.inf)
            and isinstance(bias, nn.Parameter)
            and isinstance(projection, nn.Module)
        ):
            projection.register_forward_hook(
                _clamping(layer, _inverse_softplus(low), _inverse_softplus(high))
            )


def _clamping(layer: Any, low: float, high: float) -> Any:
    def hook(_module: nn.Module, _args: Any, out: Tensor) -> Tensor:
        bias = layer.dt_bias.detach().float()
        others, dt = out.split([out.shape[-1] - len(bias), len(bias)], dim=-1)
        dt = torch.minimum(torch.maximum(dt.float(), low - bias), high - bias)
        return torch.cat([others, dt.to(out.dtype)], dim=-1)

    return hook
