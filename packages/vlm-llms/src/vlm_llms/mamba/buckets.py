"""Lengths that inputs are padded to, so that a few CUDA graphs serve all; padding changes no result."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_core.interfaces import PADDING

LEAST = 32  # positions between two lengths, at least
OCTAVE = 16  # lengths from one power of two to the next, at most


def bucket(length: int) -> int:
    """The length rounded up: by 6 % at most from 512 positions on."""
    step = max(LEAST, (1 << (length - 1).bit_length()) // (2 * OCTAVE))
    return -(-length // step) * step


def padded_to_bucket(x: Tensor, segments: Tensor | None) -> tuple[Tensor, Tensor]:
    """x (B, T, M) and segments (B, T) with padding in front; the last position stays the last."""
    batch, length = x.shape[:2]
    if segments is None:
        segments = torch.zeros(batch, length, dtype=torch.long, device=x.device)
    missing = bucket(length) - length
    return F.pad(x, (0, 0, missing, 0)), F.pad(segments, (missing, 0), value=PADDING)
