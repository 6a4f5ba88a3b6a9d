"""The causal depthwise convolution before the scan, in the layout of the matrix products around it."""

from __future__ import annotations

import torch
from torch import Tensor


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None = None, segments: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y_t = bias + Σ_j weight_j · x_{t-W+1+j}, per channel.

    x (B, T, E); weight (E, W); bias (E); `state` (B, W-1, E) are the inputs before the first position (zeros
    if None); `segments` (B, T) keeps a window from reaching into another segment. Returns y (B, T, E) and the
    state after the last position.
    """
    length, width = x.shape[1], weight.shape[1]
    if state is None:
        state = x.new_zeros(x.shape[0], width - 1, x.shape[2])
    rows = torch.cat([state.to(x.dtype), x], dim=1)
    after = rows[:, length:]
    owner = None
    if segments is not None:
        owner = torch.cat([segments[:, :1].expand(-1, width - 1), segments], dim=1)
        after = after * (owner[:, length:] == segments[:, -1:]).unsqueeze(-1)
    y = x * weight[:, -1]
    for j in range(width - 1):
        window = rows[:, j : j + length]
        if owner is not None:
            window = window * (owner[:, j : j + length] == segments).unsqueeze(-1)
        y = torch.addcmul(y, window, weight[:, j])
    return (y if bias is None else y + bias), after
