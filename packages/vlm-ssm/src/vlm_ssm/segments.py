"""Where segments begin and what is padding: worked out once a batch, used by every layer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PADDING = -1
"""Segment number of padding positions: they are read by nothing and read nothing."""
BEGIN, PAD = 1, 2
_FAR = 254  # more positions back than any window reaches


class SegmentBoundaries(NamedTuple):
    """`reset` (B, T) bytes: BEGIN where the state is reset, PAD at padding. `history` (B, T) bytes: how
    many positions of the same segment come right before, those before the batch included for the first segment.
    `left_pad` (B): padding positions before the first live one.
    """

    reset: Tensor
    history: Tensor
    left_pad: Tensor


def boundaries_of(segments: Tensor) -> SegmentBoundaries:
    """(B, T) segment numbers -> their boundaries. The first segment continues what came before."""
    batch, length = segments.shape
    position = torch.arange(length, device=segments.device).expand(batch, length)
    live = segments != PADDING
    latest = torch.where(live, position, -1).cummax(1).values  # the last live position up to here
    before = torch.cat([latest.new_full((batch, 1), -1), latest[:, :-1]], dim=1)
    begins = live & (before >= 0) & (segments != segments.gather(1, before.clamp(min=0)))
    began = torch.where(begins, position, -1).cummax(1).values
    history = torch.where(began < 0, _FAR, (position - began).clamp(max=_FAR))
    reset = torch.where(live, begins.to(torch.uint8) * BEGIN, PAD).to(torch.uint8)
    left_pad = live.to(torch.uint8).cummax(1).values.eq(0).sum(1)
    return SegmentBoundaries(reset, history.to(torch.uint8), left_pad)
