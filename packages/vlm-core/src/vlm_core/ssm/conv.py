"""The causal depthwise convolution before the scan, in the layout of the matrix products around it."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_core.interfaces import PADDING


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None = None,
    segments: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """y_t = bias + Σ_j weight_j · x_{t-W+1+j}, per channel.

    x (B, T, E); weight (E, W); bias (E); `state` (B, W-1, E) are the inputs before the first position (zeros
    if None); `segments` (B, T) keeps a window from reaching into another segment. `PADDING` stands in front
    only, where x is zero; the state then belongs right before the first live position. Returns y (B, T, E)
    and the state after the last position.
    """
    length, width = x.shape[1], weight.shape[1]
    if state is None:
        state = x.new_zeros(x.shape[0], width - 1, x.shape[2])
    rows, owner = torch.cat([state.to(x.dtype), x], dim=1), None
    if segments is not None:
        rows, owner = _behind_padding(rows, segments, width - 1)
    weight = weight.to(x.dtype)
    y = x * weight[:, -1]
    for j in range(width - 1):
        window = rows[:, j : j + length]
        if owner is not None:
            window = window * (owner[:, j : j + length] == segments).unsqueeze(-1)
        y = torch.addcmul(y, window, weight[:, j])
    after = rows[:, length:]
    if owner is not None and segments is not None:
        after = after * (owner[:, length:] == segments[:, -1:]).unsqueeze(-1)
    return (y if bias is None else y + bias.to(x.dtype)), after


def _behind_padding(rows: Tensor, segments: Tensor, past: int) -> tuple[Tensor, Tensor]:
    """Move the `past` state rows behind the padding in front; also the segment that owns each row."""
    front = (segments == PADDING).sum(1, keepdim=True)
    position = torch.arange(rows.shape[1], device=rows.device).expand(len(rows), -1)
    is_state = (position >= front) & (position < front + past)
    source = torch.where(is_state, position - front, position)
    rows = rows.gather(1, source.unsqueeze(-1).expand_as(rows))
    rows = rows * (position >= front).unsqueeze(-1)
    first = segments.gather(1, front.clamp(max=segments.shape[1] - 1))
    owner = torch.cat([first.expand(-1, past), segments], dim=1)
    return rows, torch.where(position < front + past, first, owner)
