"""Samples of different length as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from vlm_core.chat import Sample
from vlm_core.interfaces import PADDING


@dataclass
class Batch:
    """ids, is_image, is_target (B, T); segments (B, T), or None where nothing is padded; pixels (N, 3, h, w)."""

    ids: Tensor
    is_image: Tensor
    is_target: Tensor
    segments: Tensor | None
    pixels: Tensor | None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""

        def moved(tensor: Tensor | None) -> Any:
            return None if tensor is None else tensor.to(device)

        return Batch(*(moved(getattr(self, field.name)) for field in fields(self)))


def collate(
    samples: Sequence[Sample], pixels: Sequence[Tensor] = (), side: Literal["left", "right"] = "right"
) -> Batch:
    """Pad to the longest sample, on the right for training, on the left for generation.

    `pixels` are the images of all samples in order, each (3, h, w), all of one size.
    """
    length = max(len(sample) for sample in samples)

    def padded(rows: list[list[int]] | list[list[bool]], fill: int) -> Tensor:
        full = [
            r + [fill] * (length - len(r)) if side == "right" else [fill] * (length - len(r)) + r
            for r in rows
        ]
        return torch.tensor(full)

    uneven = any(len(sample) != length for sample in samples)
    return Batch(
        ids=padded([s.ids for s in samples], 0),
        is_image=padded([s.is_image for s in samples], False),
        is_target=padded([s.is_target for s in samples], False),
        segments=padded([[0] * len(s) for s in samples], PADDING) if uneven else None,
        pixels=torch.stack(list(pixels)) if len(pixels) else None,
    )
