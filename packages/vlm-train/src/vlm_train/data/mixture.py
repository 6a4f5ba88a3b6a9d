"""The rows of a stage: its datasets as one sequence, and the order in which they are read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import numpy as np
import torch

from vlm_core.errors import BadSample
from vlm_core.plugins.config import DatasetConfig
from vlm_core.rows import Row, Rows, known_faults
from vlm_train.config.train import Stage
from vlm_train.data.order.row_lengths import sizes_of
from vlm_train.data.order.shuffled_order import ShuffledOrder
from vlm_train.data.order.source_mixing import shares

CHARACTERS_PER_TOKEN = 4
"""An estimate, good enough for grouping by length."""


def joined(data: Sequence[DatasetConfig]) -> ConcatRows:
    """The rows of all datasets, one after the other."""
    return ConcatRows([source.rows() for source in data])


def order_of(
    stage: Stage, rows: ConcatRows, seed: int, image_tokens: Callable[[np.ndarray], np.ndarray]
) -> ShuffledOrder:
    """The order in which a stage reads its rows. Grouping needs `image_tokens`: `sizes_of` -> as `image_positions`."""
    sizes = [len(part) for part in rows.parts]
    per_epoch = stage.samples_per_epoch or (
        shares(stage.mix_weights, len(rows)) if stage.mix_weights else None
    )
    blocks = [part.blocks() if isinstance(part, Rows) else None for part in rows.parts]
    if not stage.group_by_length:
        return ShuffledOrder(seed, sizes, per_epoch, blocks=blocks)
    counts = sizes_of(rows).astype(np.int64)
    lengths = torch.from_numpy(counts[:, 0] // CHARACTERS_PER_TOKEN + image_tokens(counts))
    kinds = torch.from_numpy(counts[:, 1] > 0).long()
    return ShuffledOrder(
        seed, sizes, per_epoch, lengths=lengths, kinds=kinds, batch_size=stage.batch_size, blocks=blocks
    )


class ConcatRows(Rows):
    """Concatenated sequences of rows, without copying them."""

    def __init__(self, parts: Sequence[Sequence[Row]]) -> None:
        self.parts = parts
        self.starts = [0, *accumulate(len(part) for part in parts)]

    def __len__(self) -> int:
        return self.starts[-1]

    def row(self, index: int) -> Row:
        part = bisect_right(self.starts, index) - 1
        return self.parts[part][index - self.starts[part]]

    def sizes(self) -> np.ndarray:
        return np.concatenate([sizes_of(part) for part in self.parts])

    def faults(self) -> Mapping[int, BadSample]:
        return {
            start + row: error
            for start, part in zip(self.starts, self.parts, strict=False)
            for row, error in known_faults(part).items()
        }

    def missing(self) -> list[str]:
        return [line for part in self.parts if isinstance(part, Rows) for line in part.missing()]
