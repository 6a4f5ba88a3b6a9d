"""Segment boundaries and padding of a batch, computed once and used by every layer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PADDING = -1
"""Segment number of padding positions, which influence no other position."""
BEGIN, PAD = 1, 2
"""Values of `SegmentBoundaries.reset`; any other position has 0."""
_FAR = 254  # more positions than any convolution window reaches back


class SegmentBoundaries(NamedTuple):
    """Boundaries of the segments in B sequences of T positions.

    `reset` (B, T) uint8: BEGIN where the state is reset, PAD at padding, else 0. `history` (B, T) uint8: number of
    preceding positions of the same segment, capped at 254; the first segment counts as continuing an earlier chunk, so
    it has 254. `left_pad` (B) int64: number of padding positions before the first other one.
    """

    reset: Tensor
    history: Tensor
    left_pad: Tensor

    def between(self, begin: int, end: int) -> SegmentBoundaries:
        """Boundaries of positions `begin` to `end`, which continue the state after those before them."""
        left_pad = (self.left_pad - begin).clamp(0, end - begin)
        return SegmentBoundaries(self.reset[:, begin:end], self.history[:, begin:end], left_pad)


def boundaries_from(
    reset: Tensor | None, history: Tensor | None, left_pad: Tensor | None
) -> SegmentBoundaries | None:
    """The boundaries of these fields; None where there are none."""
    if reset is None or history is None or left_pad is None:
        return None
    return SegmentBoundaries(reset, history, left_pad)


def boundaries_of(segments: Tensor) -> SegmentBoundaries:
    """Boundaries of `segments` (B, T), integers that change where a segment starts; `PADDING` is padding.

    The first segment of a sequence continues the state that it is given.
    """
    batch, length = segments.shape
    position = torch.arange(length, device=segments.device).expand(batch, length)
    live = segments != PADDING
    latest = (
        torch.where(live, position, -1).cummax(1).values
    )  # the last position up to here that is no padding
    before = torch.cat([latest.new_full((batch, 1), -1), latest], dim=1)[:, :length]
    begins = live & (before >= 0) & (segments != segments.gather(1, before.clamp(min=0)))
    began = torch.where(begins, position, -1).cummax(1).values
    history = torch.where(began < 0, _FAR, (position - began).clamp(max=_FAR))
    reset = torch.where(live, begins.to(torch.uint8) * BEGIN, PAD).to(torch.uint8)
    left_pad = live.to(torch.uint8).cummax(1).values.eq(0).sum(1)
    return SegmentBoundaries(reset, history.to(torch.uint8), left_pad)
