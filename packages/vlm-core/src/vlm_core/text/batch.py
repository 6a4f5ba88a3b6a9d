"""Samples of different length as one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from vlm_core.interfaces import PADDING
from vlm_core.text.render import TokenizedConversation
from vlm_core.views.image_views import ImageInput, joined_order, view_values


@dataclass
class Batch:
    """input_ids, image_mask, loss_mask (B, T); segments (B, T), or None without padding.

    The N views of all images are pixel_values (N, 3, h, w) or, already encoded, features (N, H, W, D). `image_order`
    (P,) are the rows of their flattened tokens at the P image positions (`joined_order`), None for all in order.

    `targets` (n,) are the indices of the predicted tokens in the flattened batch, ascending: where `loss_mask` is set,
    except a row's first position. They are computed on the CPU: on a GPU their number would cost a synchronisation.
    """

    input_ids: Tensor
    image_mask: Tensor
    loss_mask: Tensor
    segments: Tensor | None
    pixel_values: Tensor | None
    features: Tensor | None = None
    targets: Tensor = None  # pyright: ignore[reportAssignmentType], a tensor from `__post_init__` on
    image_order: Tensor | None = None

    def __post_init__(self) -> None:
        if self.targets is None:
            positions = torch.arange(self.loss_mask.numel()).view_as(self.loss_mask)
            self.targets = positions[:, 1:][self.loss_mask[:, 1:].cpu()].to(self.loss_mask.device)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device. Copies from pinned memory are asynchronous."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def sent_to(self, device: torch.device) -> Batch:
        """As `to`, through pinned memory: a GPU works on while the host goes on."""
        return (self.pin_memory() if device.type == "cuda" else self).to(device)

    def pin_memory(self) -> Batch:
        """The same batch in pinned memory; `DataLoader(pin_memory=True)` calls this."""
        return self._map(Tensor.pin_memory)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = [getattr(self, field.name) for field in fields(self)]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        def changed(tensor: Tensor | None) -> Any:
            return None if tensor is None else change(tensor)

        return Batch(*(changed(getattr(self, field.name)) for field in fields(self)))


def empty_batch() -> Batch:
    """A batch without images and targets."""
    mask = torch.zeros(1, 2, dtype=torch.bool)
    return Batch(torch.zeros(1, 2, dtype=torch.long), mask, mask, None, None)


def padding_share(batches: Sequence[Batch]) -> float:
    """The share of all positions that is padding."""
    positions = sum(batch.input_ids.numel() for batch in batches)
    padded = sum(int((b.segments == PADDING).sum()) for b in batches if b.segments is not None)
    return padded / positions if positions else 0.0


def _balanced(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Assign samples to `count` rows, the longest first, each to the shortest row so far."""
    rows: list[list[int]] = [[] for _ in range(count)]
    filled = [0] * count
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = filled.index(min(filled))
        rows[at].append(i)
        filled[at] += lengths[i]
    return rows


def share_rows(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of the samples of each row of at most `capacity` positions; the batch has as few positions as possible.

    A sample longer than `capacity` has a row of its own.
    """
    best, fewest = [[i] for i in range(len(lengths))], len(lengths) * max(lengths)
    for count in range(len(lengths) - 1, 0, -1):
        rows = _balanced(lengths, count)
        sums = [sum(lengths[i] for i in row) for row in rows]
        if any(s > capacity and len(row) > 1 for s, row in zip(sums, rows, strict=True)):
            continue
        if count * max(sums) <= fewest:
            best, fewest = rows, count * max(sums)
    return best


def pack(
    samples: Sequence[TokenizedConversation],
    images: Sequence[Sequence[ImageInput]],
    capacity: int,
    *,
    encoded: bool = False,
) -> Batch:
    """As `collate`, with several samples in a row of at most `capacity` positions, separated by `segments`.

    `images[i]` are those of sample i. A sample's first token is no target, as nothing precedes it: the
    loss equals that of the unpacked samples.
    """
    rows, pixels = [], []
    segments: list[list[int]] = []
    for members in share_rows([len(s) for s in samples], capacity):
        row, ids = TokenizedConversation(), []
        for number, i in enumerate(members):
            sample = samples[i]
            row.extend(
                TokenizedConversation(sample.input_ids, sample.image_mask, [False, *sample.loss_mask[1:]])
            )
            ids += [number] * len(sample)
            pixels += images[i]
        rows.append(row)
        segments.append(ids)
    batch = collate(rows, pixels, encoded=encoded)
    width = batch.input_ids.shape[1]
    batch.segments = torch.tensor([ids + [PADDING] * (width - len(ids)) for ids in segments])
    return batch


def collate(
    samples: Sequence[TokenizedConversation],
    images: Sequence[ImageInput] = (),
    side: Literal["left", "right"] = "right",
    *,
    encoded: bool = False,
) -> Batch:
    """Pad to the longest sample, on the right for training, on the left for generation.

    `images` are those of all samples in order, with views of one size: pixels or, if `encoded`, features.
    """
    length = max(len(sample) for sample in samples)

    def padded(rows: list[list[int]] | list[list[bool]], fill: int, kind: type) -> Tensor:
        full = [
            r + [fill] * (length - len(r)) if side == "right" else [fill] * (length - len(r)) + r
            for r in rows
        ]
        return torch.from_numpy(np.array(full, dtype=kind))  # several times as fast as from lists

    # in a worker process default_collate stacks directly in shared memory
    views = [view for image in images for view in view_values(image)]
    stacked = default_collate(views) if views else None
    uneven = any(len(sample) != length for sample in samples)
    return Batch(
        input_ids=padded([s.input_ids for s in samples], 0, np.int64),
        image_mask=padded([s.image_mask for s in samples], False, np.bool_),
        loss_mask=padded([s.loss_mask for s in samples], False, np.bool_),
        segments=padded([[0] * len(s) for s in samples], PADDING, np.int64) if uneven else None,
        pixel_values=None if encoded else stacked,
        features=stacked if encoded else None,
        image_order=joined_order(images),
    )
