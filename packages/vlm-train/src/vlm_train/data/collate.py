"""Collates examples into the micro-batches of the data loader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from vlm_core.text.batch import Batch, collate, pack
from vlm_train.data.dataset import DroppedSample, Example, Fetched


@dataclass
class MicroBatch:
    """One micro-batch of the data loader; `batch` is None if every row was dropped.

    `io_retries` counts reads that failed and were retried: faults of the storage, not of the data.
    """

    batch: Batch | None
    dropped: list[DroppedSample]
    io_retries: int = 0

    def pin_memory(self) -> MicroBatch:
        """The same with its tensors in pinned memory; a `DataLoader` pins only what has this method."""
        return replace(self, batch=self.batch and self.batch.pin_memory())


def to_micro_batch(
    items: Sequence[Example | DroppedSample], capacity: int | None = None, encoded: bool = False
) -> MicroBatch:
    """The loader's collate function. With `capacity`, samples are packed into rows of that many positions.

    `encoded`: images are features (H, W, D), not pixels.
    """
    examples = [item for item in items if isinstance(item, Example)]
    samples, images = [e.sample for e in examples], [e.images for e in examples]
    batch = None
    if examples and capacity:
        batch = pack(samples, images, capacity, encoded=encoded)
    elif examples:
        batch = collate(samples, list(chain(*images)), encoded=encoded)
    retries = items.io_retries if isinstance(items, Fetched) else 0
    return MicroBatch(batch, [item for item in items if isinstance(item, DroppedSample)], retries)
