"""The endless stream of a stage's rows: a pure function of the seed, so a position in it is all that resuming needs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from vlm_core.rows import Blocks
from vlm_train.seeds import epoch_seed, fold_in

POOL = 64
"""Batches among which rows are sorted by length: more would group better and shuffle less."""


def shares(weights: Sequence[float], total: int) -> list[int]:
    """`total` divided in proportion to `weights`, to whole numbers whose sum is exact (largest remainders)."""
    exact = [total * w / sum(weights) for w in weights]
    counts = [int(e) for e in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


class ShuffledOrder:
    """Rows of several sources, numbered through, in the order of training.

    An epoch holds `counts[i]` rows of source i (default: all of its `sizes[i]`). Where that isn't all of them, a
    source goes on in the next epoch where it stopped in this one, so that its rows are seen equally often. With
    `lengths` (and `kinds`, any integer a row) each batch of `batch_size` holds rows of one kind and like length.

    `blocks[i]` are source i's stretches of rows that are cheap to read together, or None: their order is shuffled,
    and so are the rows of every `window` blocks in turn. A step's rows are then best read sorted (`neighbours`).
    """

    def __init__(
        self, seed: int, sizes: Sequence[int], counts: Sequence[int] | None = None, *,
        lengths: Tensor | None = None, kinds: Tensor | None = None, batch_size: int = 1,
        blocks: Sequence[Blocks | None] = (),
    ) -> None:  # fmt: skip
        self.seed, self.sizes, self.counts = seed, list(sizes), list(counts or sizes)
        self.mixed = counts is not None
        self.lengths, self.kinds, self.batch_size = lengths, kinds, batch_size
        self.blocks = list(blocks) or [None] * len(self.sizes)
        self.neighbours = any(block is not None for block in self.blocks)
        self._epochs: OrderedDict[int, Tensor] = OrderedDict()

    def __len__(self) -> int:
        """Rows an epoch."""
        return sum(self.counts)

    def row_at(self, position: int) -> int:
        """The row at a position of the stream."""
        epoch, offset = divmod(position, len(self))
        if epoch not in self._epochs:
            self._epochs[epoch] = self.epoch(epoch)
            while len(self._epochs) > 2:
                self._epochs.popitem(last=False)
        return int(self._epochs[epoch][offset])

    def rows_between(self, first: int, last: int) -> list[int]:
        """The different rows at positions `first` … `last`-1, in ascending order."""
        seen, size = torch.zeros(sum(self.sizes), dtype=torch.bool), len(self)
        for epoch in range(first // size, -(-last // size)):
            start = epoch * size
            seen[self.epoch(epoch)[max(0, first - start) : last - start]] = True
            if seen.all():
                break
        return seen.nonzero().flatten().tolist()

    def epoch(self, number: int) -> Tensor:
        """The rows of epoch `number`, from 0."""
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, number))
        order = torch.randperm(len(self), generator=generator)
        if self.neighbours:
            order = self._interleaved(number, order)
        elif self.mixed:
            order = self._table(number)[order]
        return order if self.lengths is None else self._grouped(order, number, generator)

    def _table(self, number: int) -> Tensor:
        """The rows that epoch `number` takes from each source, source by source."""
        starts = [0, *accumulate(self.sizes)]
        pieces = []
        for source, (size, count) in enumerate(zip(self.sizes, self.counts, strict=True)):
            first, last = number * count, (number + 1) * count
            rounds = range(first // size, -(-last // size))
            stream = torch.cat([self._round(source, r) for r in rounds]) if count else torch.empty(0).long()
            pieces.append(starts[source] + stream[first - rounds.start * size :][:count])
        return torch.cat(pieces)

    def _interleaved(self, number: int, order: Tensor) -> Tensor:
        """The rows of an epoch with the sources mixed by `order`, each source's own in the order of its round."""
        source = torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts))[order]
        result = torch.empty_like(order)
        result[source.argsort(stable=True)] = self._table(number)
        return result

    def _round(self, source: int, number: int) -> Tensor:
        """The permutation in which a source's rows are seen for the `number`-th time."""
        generator = torch.Generator().manual_seed(fold_in(self.seed, source, number))
        blocks = self.blocks[source]
        if blocks is None:
            return torch.randperm(self.sizes[source], generator=generator)
        stretches = torch.arange(self.sizes[source]).split(blocks.sizes.tolist())
        shuffled = [stretches[i] for i in torch.randperm(len(stretches), generator=generator)]
        windows = (shuffled[i : i + blocks.window] for i in range(0, len(shuffled), blocks.window))
        rows = [torch.cat(window) for window in windows]
        return torch.cat([window[torch.randperm(len(window), generator=generator)] for window in rows])

    def _grouped(self, order: Tensor, number: int, generator: torch.Generator) -> Tensor:
        """The same rows in batches of like ones, the batches shuffled.

        An epoch may begin inside a batch: its first rows, and its last, come from what no full batch could take.
        """
        assert self.lengths is not None
        head = -number * len(order) % self.batch_size
        kinds = torch.zeros_like(order) if self.kinds is None else self.kinds[order]
        batches, rest = [], [order[:0]]  # of places in `order`
        for kind in kinds.unique().tolist():
            places = (kinds == kind).nonzero().squeeze(1)
            for pool in places.split(self._pool(len(places) / len(order)) * self.batch_size):
                *full, last = pool[self.lengths[order[pool]].argsort(stable=True)].split(self.batch_size)
                batches += full
                (batches if len(last) == self.batch_size else rest).append(last)
        loose = torch.cat(rest)
        while len(loose) < min(head, len(order)):
            loose = torch.cat([loose, batches.pop()])
        middle = loose[head : head + (len(loose) - head) // self.batch_size * self.batch_size]
        batches += list(middle.split(self.batch_size)) if len(middle) else []
        shuffled = [batches[i] for i in self._shuffled(batches, generator)]
        return order[torch.cat([loose[:head], *shuffled, loose[head + len(middle) :]])]

    def _shuffled(self, batches: Sequence[Tensor], generator: torch.Generator) -> Tensor:
        """An order of batches: any, or for blocks one in which none moves far from its rows' places."""
        if not self.neighbours:
            return torch.randperm(len(batches), generator=generator)
        near = torch.rand(len(batches), generator=generator) * self._pool(1) * self.batch_size / 2
        middles = torch.tensor([float(places.float().mean()) for places in batches])
        return (middles + near).argsort(stable=True)

    def _pool(self, share: float) -> int:
        """Batches of a kind with such a share of the rows that are sorted by length together; few for blocks."""
        if not self.neighbours:
            return POOL
        stretches = (
            block.window * size / len(block.sizes) * len(self) / max(1, count)
            for block, size, count in zip(self.blocks, self.sizes, self.counts, strict=True)
            if block is not None
        )
        return max(1, min(POOL, round(share * min(stretches) / self.batch_size)))
