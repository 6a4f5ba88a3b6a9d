"""The endless stream of a stage's rows: a pure function of the seed, so that resuming needs a position alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from vlm_core.rows import Blocks
from vlm_train.data.order.length_groups import LengthGroups
from vlm_train.data.order.source_mixing import MixedSources
from vlm_train.seeds import epoch_seed

_CACHED_EPOCHS = 2
"""A step may span two epochs."""


class ShuffledOrder:
    """Rows of several datasets, numbered consecutively, in the order of training.

    `MixedSources` describes `sizes`, `counts` and `blocks`, `LengthGroups` describes `lengths`, `kinds` and
    `batch_size`; without `lengths` rows are not grouped.
    """

    def __init__(
        self,
        seed: int,
        sizes: Sequence[int],
        counts: Sequence[int] | None = None,
        *,
        lengths: Tensor | None = None,
        kinds: Tensor | None = None,
        batch_size: int = 1,
        blocks: Sequence[Blocks | None] = (),
    ) -> None:
        self.seed, self.mixture = seed, MixedSources(seed, sizes, counts, blocks)
        self.groups: LengthGroups | None = None
        if lengths is not None:
            self.groups = LengthGroups(lengths, kinds, batch_size, self.mixture.window_rows())
        self._epochs: OrderedDict[int, Tensor] = OrderedDict()

    def __len__(self) -> int:
        """Rows per epoch."""
        return len(self.mixture)

    @property
    def reads_blocks(self) -> bool:
        """Whether some rows are cheap to read together: the rows of a step are then best read in ascending order."""
        return self.mixture.has_blocks

    def epoch(self, number: int) -> Tensor:
        """The rows of epoch `number`, from 0."""
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, number))
        rows = self.mixture.epoch(number, generator)
        return rows if self.groups is None else self.groups.regroup(rows, number, generator)

    def row_at(self, position: int) -> int:
        """The row at a position of the stream."""
        epoch, offset = divmod(position, len(self))
        if epoch not in self._epochs:
            self._epochs[epoch] = self.epoch(epoch)
            while len(self._epochs) > _CACHED_EPOCHS:
                self._epochs.popitem(last=False)
        return int(self._epochs[epoch][offset])

    def rows_between(self, first: int, last: int) -> list[int]:
        """The distinct rows at positions `first` … `last`-1, in ascending order."""
        used, size = torch.zeros(sum(self.mixture.sizes), dtype=torch.bool), len(self)
        for epoch in range(first // size, -(-last // size)):
            start = epoch * size
            used[self.epoch(epoch)[max(0, first - start) : last - start]] = True
            if used.all():
                break
        return used.nonzero().flatten().tolist()
