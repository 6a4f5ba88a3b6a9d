"""Micro-batches padded to a few shapes, so that a few CUDA graphs serve all; padding changes no sum."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_core.interfaces import PADDING
from vlm_core.text.batch import Batch

LEAST_POSITIONS, LEAST_TARGETS = 32, 64
OCTAVE = 32
"""Numbers of positions from one power of two to the next, twice: padding is at most 6 % from 512 positions on."""
WHOLE = 512
"""From so many targets on, their number is rounded up to a multiple of this, below to a power of two."""


def positions(length: int) -> int:
    """The number of positions of a row, rounded up."""
    step = max(LEAST_POSITIONS, (1 << (length - 1).bit_length()) // OCTAVE)
    return -(-length // step) * step


def targets(count: int) -> int:
    """The number of targets, rounded up."""
    if count > WHOLE:
        return -(-count // WHOLE) * WHOLE
    return max(LEAST_TARGETS, 1 << max(0, count - 1).bit_length())


def padded(batch: Batch) -> tuple[Batch, Tensor]:
    """The batch with more positions on the right and more targets; and which of these targets count (n).

    A target that does not count is position 1 of the first row, whose logits exist but enter no loss.
    """
    length = batch.input_ids.shape[1]
    missing = positions(length) - length
    segments = batch.segments
    if segments is None:
        segments = torch.zeros_like(batch.input_ids)
    count = len(batch.targets)
    extra = targets(count) - count
    moved = batch.targets + batch.targets.div(length, rounding_mode="floor") * missing
    counted = torch.arange(count + extra, device=moved.device) < count
    right = (0, missing)
    return replace(
        batch,
        input_ids=F.pad(batch.input_ids, right),
        image_mask=F.pad(batch.image_mask, right),
        loss_mask=F.pad(batch.loss_mask, right),
        segments=F.pad(segments, right, value=PADDING),
        targets=F.pad(moved, (0, extra), value=1),
    ), counted
